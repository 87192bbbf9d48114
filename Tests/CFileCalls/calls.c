// These functions replace the C library's functions of the same names. They note each call, and then call the C
// library.

#ifdef __linux__
#define _GNU_SOURCE
#include "CFileCalls.h"

#include <dlfcn.h>
#include <string.h>
#include <sys/stat.h>

static _Thread_local char calls[64];

static void note(char what) {
  size_t length = strlen(calls);
  if (length + 1 < sizeof calls) calls[length] = what;
}

void file_calls_begin(void) { memset(calls, 0, sizeof calls); }
const char *file_calls(void) { return calls; }

int fsync(int descriptor) {
  static int (*next)(int);
  if (!next) next = (int (*)(int))dlsym(RTLD_NEXT, "fsync");
  struct stat status;
  note(fstat(descriptor, &status) == 0 && S_ISDIR(status.st_mode) ? 'd' : 's');
  return next(descriptor);
}

int rename(const char *old, const char *new) {
  static int (*next)(const char *, const char *);
  if (!next) next = (int (*)(const char *, const char *))dlsym(RTLD_NEXT, "rename");
  note('r');
  return next(old, new);
}
#else
#include "CFileCalls.h"
void file_calls_begin(void) {}
const char *file_calls(void) { return ""; }
#endif
