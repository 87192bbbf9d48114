// A program that computes with OpenBLAS's own threads after OpenBLAS has chosen its kernels again. A constructor makes
// OpenBLAS choose again: before main if the constructor is linked into this program, or late if an argument names a
// library that holds the constructor. The program checks results in its own process and in a child process.

#include <cblas.h>
#include <dlfcn.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

enum { n = 192 };

// How many results of a product on `threads` threads are wrong.
static int wrong_results(int threads) {
  openblas_set_num_threads(threads);
  static double a[n * n], b[n * n], c[n * n];
  for (int i = 0; i < n * n; i++) a[i] = i % 7 - 3, b[i] = i % 5 - 2, c[i] = NAN;
  cblas_dgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, n, n, n, 1, a, n, b, n, 0, c, n);
  int wrong = 0;
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      double exact = 0;
      for (int p = 0; p < n; p++) exact += a[i * n + p] * b[p * n + j];
      wrong += !(c[i * n + j] == exact);
    }
  return wrong;
}

static int wrong_results_of_all(void) { return wrong_results(2) + wrong_results(5) + wrong_results(1) + wrong_results(3); }

int main(int count, char **arguments) {
  if (count > 1) {
    if (wrong_results(2)) return fprintf(stderr, "wrong before the library was loaded\n"), 1;
    if (!dlopen(arguments[1], RTLD_NOW)) return fprintf(stderr, "%s\n", dlerror()), 1;
  }
  int wrong = wrong_results_of_all();
  if (wrong) return fprintf(stderr, "%d results are wrong\n", wrong), 1;
  pid_t child = fork();
  if (child == 0) _exit(wrong_results_of_all() != 0);
  int status;
  if (child < 0 || waitpid(child, &status, 0) != child || status) return fprintf(stderr, "wrong in a child\n"), 1;
  if (wrong_results_of_all()) return fprintf(stderr, "wrong after a fork\n"), 1;
  return 0;
}
