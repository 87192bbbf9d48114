// A library to preload into a program with LD_PRELOAD. It gives the start-up of OpenBLAS the worst possible timing, on
// any CPU with AVX: OpenBLAS seems to have found a core older than the CPU, so the kernels are chosen anew, and every
// step of the choice takes long. Sources/COpenBLASStartup/startup.c describes the hazard.
//
// If a worker thread of OpenBLAS exists during this choice, the worker (0) begins, (1) finds no kernel table and begins
// to choose kernels itself, and (2) stores NULL as the table, because it does not know the name in OPENBLAS_CORETYPE.
// Meanwhile, (3) the main thread calls through the table.

#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

// All times are in microseconds. New threads begin when the table is missing, or after 30 ms if it never is. From the
// moment when the table is missing, the worker leaves it NULL from 18 ms to 28 ms, and the main thread calls through it
// at 25 ms.
enum { longest_wait = 30000, table_missing = 5000, name_read = 8000, warning = 10000, features_read = 10000 };
static volatile int table_is_missing;

static int is_main_thread(void) { return syscall(SYS_gettid) == getpid(); }

const char *openblas_get_corename(void) {
  static int calls;
  const char *(*real)(void) = (const char *(*)(void))dlsym(RTLD_NEXT, "openblas_get_corename");
  return calls++ == 0 ? "Prescott" : real();
}

void gotoblas_dynamic_quit(void) {
  void (*real)(void) = (void (*)(void))dlsym(RTLD_NEXT, "gotoblas_dynamic_quit");
  real();
  table_is_missing = 1;
  usleep(table_missing);
}

char *getenv(const char *name) {
  static char *(*real)(const char *);
  if (!real) real = (char *(*)(const char *))dlsym(RTLD_NEXT, "getenv");
  if (!strcmp(name, "OPENBLAS_CORETYPE") && !is_main_thread()) usleep(name_read);
  return real(name);
}

// OpenBLAS calls this function when it does not know the name, and again after it has stored the table and before it
// calls through the table.
void openblas_warning(int level, const char *message) {
  (void)level, (void)message;
  usleep(warning);
}

// OpenBLAS calls this function after it has stored NULL, to choose kernels by the CPU's features.
int support_avx512_bf16(void) {
  int (*real)(void) = (int (*)(void))dlsym(RTLD_NEXT, "support_avx512_bf16");
  if (!is_main_thread()) usleep(features_read);
  return real();
}

struct start {
  void *(*body)(void *);
  void *argument;
};

static void *begin_late(void *pointer) {
  struct start start = *(struct start *)pointer;
  free(pointer);
  for (int waited = 0; waited < longest_wait && !table_is_missing; waited += 100) usleep(100);
  return start.body(start.argument);
}

int pthread_create(pthread_t *thread, const pthread_attr_t *attributes, void *(*body)(void *), void *argument) {
  int (*real)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *) =
      (int (*)(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *))dlsym(RTLD_NEXT, "pthread_create");
  struct start *start = malloc(sizeof *start);
  *start = (struct start){body, argument};
  return real(thread, attributes, begin_late, start);
}
