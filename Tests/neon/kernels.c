// The kernels of every instruction set that is present, against plain C: for machines without Swift.
// Prints a line for each and ends with "N passed, M failed".

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "CAttentionKernels.h"

static int passed, failed;

static void expect(bool condition, const char *isa, const char *what, double figure) {
  condition ? passed++ : failed++;
  printf("%s  %-8s %-48s %g\n", condition ? "PASS" : "FAIL", isa, what, figure);
}

static double random_number(void) {
  static uint64_t state = 0x9e3779b97f4a7c15u;
  state = state * 6364136223846793005u + 1442695040888963407u;
  return (double)(state >> 11) * 0x1p-53;
}

#define DEFINE_CHECKS(T, P, LOWEST, EXACT_EXP2, NEXT, TOLERANCE)                                                   \
  static void check_##P(attn_isa isa, const char *name) {                                                          \
    const P##_kernels *kernels = P##_kernels_for(isa);                                                             \
    enum { samples = 200000, longest = 300 };                                                                      \
    T *x = malloc(samples * sizeof(T)), *y = malloc(samples * sizeof(T));                                          \
    for (int i = 0; i < samples; i++) x[i] = i % 2 ? (T)(LOWEST)*i / samples : (T)(-2 * random_number());          \
    kernels->exp2(samples, x, y);                                                                                  \
    double worst = 0;                                                                                              \
    for (int i = 0; i < samples; i++) {                                                                            \
      long double exact = EXACT_EXP2(x[i]);                                                                        \
      T near = (T)exact;                                                                                           \
      double error = (double)(fabsl(y[i] - exact) / (NEXT(near, 4) - near));                                       \
      if (error > worst) worst = error;                                                                            \
    }                                                                                                              \
    expect(worst <= 1.5, name, #T ": 2^x, ULP", worst);                                                            \
    T edges[4] = {-INFINITY, NAN, (T)(LOWEST)*2, 0}, got[4];                                                       \
    kernels->exp2(4, edges, got);                                                                                  \
    expect(got[0] == 0 && got[1] != got[1] && got[2] == 0 && got[3] == 1, name, #T ": 2^x at its edges", got[0]);  \
                                                                                                                   \
    int wrong = 0;                                                                                                 \
    for (int count = 0; count < longest; count++) {                                                                \
      T row[longest + 1], scores[longest + 1], most = -INFINITY, sum = 0, rescale = 0, carried = -INFINITY;        \
      uint8_t attend[longest];                                                                                     \
      for (int i = 0; i < count; i++) {                                                                            \
        row[i] = (T)(40 * random_number() + 80);                                                                   \
        attend[i] = random_number() < 0.7;                                                                         \
      }                                                                                                            \
      row[count] = scores[count] = NAN;                                                                            \
      memcpy(scores, row, count * sizeof(T));                                                                      \
      kernels->mask(count, scores, attend);                                                                        \
      for (int i = 0; i < count; i++)                                                                              \
        if (attend[i] && row[i] > most) most = row[i];                                                             \
      if (kernels->maximum(count, scores) != most) wrong++;                                                        \
      P##_softmax_tile tile = {1, count, count + 1, scores, NULL, NULL, &carried, &sum, &rescale};                 \
      kernels->softmax_tile(&tile);                                                                                \
      double total = 0;                                                                                            \
      for (int i = 0; i < count; i++) {                                                                            \
        double exact = attend[i] ? exp((double)row[i] - (double)most) : 0;                                         \
        total += exact;                                                                                            \
        if (!(fabs((double)scores[i] - exact) <= TOLERANCE)) wrong++;                                              \
      }                                                                                                            \
      if (!(fabs((double)sum - total) <= TOLERANCE * (count + 1)) || scores[count] == scores[count]) wrong++;      \
    }                                                                                                              \
    expect(wrong == 0, name, #T ": softmax of rows of 0 to 299, wrong values", wrong);                             \
    free(x);                                                                                                       \
    free(y);                                                                                                       \
  }

DEFINE_CHECKS(float, attn_f32, -126.0, exp2, nextafterf, 1e-6)
DEFINE_CHECKS(double, attn_f64, -1022.0, exp2l, nextafter, 1e-14)

int main(void) {
  static const char *const names[] = {"portable", "neon", "avx2", "avx512"};
  for (int isa = attn_isa_portable; isa <= attn_isa_avx512; isa++) {
    if (!attn_isa_is_present((attn_isa)isa)) continue;
    check_attn_f32((attn_isa)isa, names[isa]);
    check_attn_f64((attn_isa)isa, names[isa]);
  }
#if defined(__aarch64__)
  expect(attn_isa_is_present(attn_isa_neon), "neon", "is present", 1);
#endif
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
