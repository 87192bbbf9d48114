// Corrects OpenBLAS's choice of kernels before main, where OpenBLAS is older than the CPU.
//
// OpenBLAS picks its kernels once, from a table of CPU models. For a model newer than itself it falls back to kernels
// for older CPUs: to AVX2 on a CPU with AVX-512 (121 instead of 227 GFLOP/s a thread, sgemm 2048³, EPYC of family 26,
// OpenBLAS 0.3.21), or even to SSE3, under the name "Prescott" (16 instead of 155 GFLOP/s a thread). Builds with
// DYNAMIC_ARCH export the two functions that choose. Calling them again with OPENBLAS_CORETYPE set makes them choose
// anew.
//
// Hazard: the kernel table is NULL during the choice, so no other thread may call OpenBLAS meanwhile.
// - OpenBLAS's own workers would use the table. They start when OpenBLAS is loaded, and each first allocates a buffer,
//   for which it reads the table. When the workers were left running, one to three of 100 starts of a program crashed.
//   So they are stopped (and joined) before the choice and started again after it, as OpenBLAS itself does around a
//   fork.
// - The program's threads do not exist yet, because this code is a constructor, called before main. A process that
//   loads this code with dlopen while another thread is inside OpenBLAS can crash: set ATTENTION_OPENBLAS_AS_FOUND
//   there.
//
// Hazard: setenv moves `environ`, but in a static executable Swift expects the command line's arguments just before
// `environ` in memory (swiftlang/swift#76080). So setenv is not called. Instead, `environ` points to a separate array,
// which holds OPENBLAS_CORETYPE, during the choice only.

#define _GNU_SOURCE
#include "COpenBLASStartup.h"

#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#if defined(__APPLE__)
#include <crt_externs.h>
#define environ (*_NSGetEnviron())
#else
#include <unistd.h>
#endif

static char core_as_found[64];
static const char *decision = "left as found: this OpenBLAS cannot choose again";

// Functions of the OpenMP runtime, looked up once because they are called around every computation.
static int (*get_max_threads)(void);
static void (*set_num_threads)(int);

const char *openblas_startup_core_as_found(void) { return core_as_found; }
const char *openblas_startup_decision(void) { return decision; }

// The OPENBLAS_CORETYPE that suits this CPU better than `core`; NULL if `core` is right.
static const char *better_core(const char *core) {
#if defined(__x86_64__)
  static const char *const avx2_or_less[] = {"Haswell", "Zen", "Excavator", "Steamroller", "Piledriver",
                                             "Bulldozer", "Sandybridge", "Nehalem", "Barcelona", "Core2",
                                             "Penryn", "Dunnington", "Atom", "Bobcat", "Katmai", "Coppermine",
                                             "Northwood", "Banias", "Opteron", "Opteron_SSE3", "Nano"};
  __builtin_cpu_init();
  // OpenBLAS has no core named "choose-by-features". Such an unknown name makes it choose by the CPU's features.
  if (!strcmp(core, "Prescott")) return __builtin_cpu_supports("avx") ? "choose-by-features" : NULL;
  int avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")
               && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
               && __builtin_cpu_supports("avx512cd");
  if (!avx512) return NULL;
  for (size_t i = 0; i < sizeof avx2_or_less / sizeof *avx2_or_less; i++)
    if (!strcmp(core, avx2_or_less[i])) return "SkylakeX";
#else
  (void)core;
#endif
  return NULL;
}

// A function that OpenBLAS exports without declaring it.
typedef void (*Function)(void);

static Function exported(const char *name) { return (Function)dlsym(RTLD_DEFAULT, name); }

// Makes OpenBLAS choose its kernels anew, as if OPENBLAS_CORETYPE were `core`. False if there is no memory for it.
static bool choose_again(const char *core, Function quit, Function init) {
  size_t count = 0;
  while (environ && environ[count]) count++;
  char **own = calloc(count + 2, sizeof *own);
  char *variable = malloc(sizeof "OPENBLAS_CORETYPE=" + strlen(core));
  bool has_memory = own && variable;
  if (has_memory) {
    strcpy(variable, "OPENBLAS_CORETYPE=");
    strcat(variable, core);
    own[0] = variable;
    if (count) memcpy(own + 1, environ, count * sizeof *own);
    char **const found = environ;
    environ = own;
    quit();
    init();
    environ = found;
  }
  free(variable);
  free(own);
  return has_memory;
}

static void choose_kernels(void) {
  const char *(*core_name)(void) = (const char *(*)(void))exported("openblas_get_corename");
  if (!core_name) return;
  strncpy(core_as_found, core_name(), sizeof core_as_found - 1);
  if (getenv("OPENBLAS_CORETYPE")) {
    decision = "left as found: OPENBLAS_CORETYPE is set";
    return;
  }
  if (getenv("ATTENTION_OPENBLAS_AS_FOUND")) {
    decision = "left as found: ATTENTION_OPENBLAS_AS_FOUND is set";
    return;
  }
  Function quit = exported("gotoblas_dynamic_quit"), init = exported("gotoblas_dynamic_init");
  if (!quit || !init) return;
  const char *core = better_core(core_as_found);
  if (!core) {
    decision = "left as found: it suits this CPU";
    return;
  }
  // Builds without threads, and builds with OpenMP's threads, have no workers of their own.
  int (*threading)(void) = (int (*)(void))exported("openblas_get_parallel");
  bool has_workers = threading && threading() == 1;
  Function stop = exported("blas_thread_shutdown_"), start = exported("blas_thread_init");
  if (has_workers && !(stop && start)) {
    decision = "left as found: the threads of this OpenBLAS cannot be stopped meanwhile";
    return;
  }
  const int *workers_run = dlsym(RTLD_DEFAULT, "blas_server_avail");
  if (workers_run && !*workers_run) has_workers = false;
  if (has_workers) stop();
  const bool has_chosen = choose_again(core, quit, init);
  // OpenBLAS would also start its workers on demand. They are started here, because openblas_set_num_threads of 0.3.21
  // adds threads without checking whether the workers are running.
  if (has_workers) start();
  if (!has_chosen)
    decision = "left as found: no memory was left to choose anew";
  else if (strcmp(core_name(), core_as_found))
    decision = "chosen anew before main: the core found was older than this CPU";
  else
    decision = "left as found: choosing anew changed nothing";
}

__attribute__((constructor)) static void start(void) {
  get_max_threads = (int (*)(void))dlsym(RTLD_DEFAULT, "omp_get_max_threads");
  set_num_threads = (void (*)(int))dlsym(RTLD_DEFAULT, "omp_set_num_threads");
  choose_kernels();
}

int openblas_startup_openmp_get_max_threads(void) { return get_max_threads ? get_max_threads() : 1; }

void openblas_startup_openmp_set_num_threads(int count) {
  if (set_num_threads) set_num_threads(count);
}
