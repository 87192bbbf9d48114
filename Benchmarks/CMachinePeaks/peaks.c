// Measures the peak rates of this machine, to which the measured rates of the library are compared.

#include "CMachinePeaks.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

// Twelve independent chains hide the latency of an FMA on two ports. On x86 and Arm, inline assembly keeps the compiler
// from folding the loop. Other CPUs use plain vectors.
#define CHAINS 12

#define DEFINE_FMA(SUFFIX, TARGET, BYTES, INSTRUCTION)                                               \
  TARGET static double run_##SUFFIX(int million_rounds) {                                            \
    typedef float vector __attribute__((ext_vector_type(BYTES / 4)));                                \
    vector a0 = (vector)1, a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, a8 = a0,   \
           a9 = a0, a10 = a0, a11 = a0;                                                              \
    vector b = (vector)0.999f, c = (vector)0.001f;                                                   \
    long rounds = million_rounds * 1000000L;                                                         \
    for (long i = 0; i < rounds; i++) {                                                              \
      INSTRUCTION(a0) INSTRUCTION(a1) INSTRUCTION(a2) INSTRUCTION(a3) INSTRUCTION(a4)                \
      INSTRUCTION(a5) INSTRUCTION(a6) INSTRUCTION(a7) INSTRUCTION(a8) INSTRUCTION(a9)                \
      INSTRUCTION(a10) INSTRUCTION(a11)                                                              \
    }                                                                                                \
    volatile float sink = (a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + a10 + a11)[0];          \
    (void)sink;                                                                                      \
    return (double)rounds * CHAINS * (BYTES / 4) * 2;                                                \
  }

#if defined(__x86_64__)
#define X86_FMA(x) __asm__ volatile("vfmadd213ps %2, %1, %0" : "+v"(x) : "v"(b), "v"(c));
#define X86_MULTIPLY_ADD(x) __asm__ volatile("mulps %1, %0\n\taddps %2, %0" : "+x"(x) : "x"(b), "x"(c));
DEFINE_FMA(avx512, __attribute__((target("avx512f"))), 64, X86_FMA)
DEFINE_FMA(avx2, __attribute__((target("avx2,fma"))), 32, X86_FMA)
DEFINE_FMA(sse2, , 16, X86_MULTIPLY_ADD)
#elif defined(__aarch64__)
#define NEON_FMA(x) __asm__ volatile("fmla %0.4s, %1.4s, %2.4s" : "+w"(x) : "w"(b), "w"(c));
DEFINE_FMA(neon, , 16, NEON_FMA)
#else
#define PLAIN_MULTIPLY_ADD(x) x = x * b + c;
DEFINE_FMA(plain, , 16, PLAIN_MULTIPLY_ADD)
#endif

double peaks_run_fma(int million_rounds) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return run_avx512(million_rounds);
  if (__builtin_cpu_supports("fma")) return run_avx2(million_rounds);
  return run_sse2(million_rounds);
#elif defined(__aarch64__)
  return run_neon(million_rounds);
#else
  return run_plain(million_rounds);
#endif
}

// The loop reads at four places at once, because a single stream does not keep the memory busy. It adds to four sums,
// so that the reads take the time and not the additions.
#define DEFINE_READ(SUFFIX, TARGET, BYTES)                                                          \
  TARGET static float read_##SUFFIX(const float *x, size_t count) {                                 \
    typedef float vector __attribute__((ext_vector_type(BYTES / 4), aligned(4)));                   \
    enum { WIDTH = BYTES / 4 };                                                                     \
    vector s0 = (vector)0, s1 = s0, s2 = s0, s3 = s0;                                               \
    size_t quarter = count / 4 / WIDTH * WIDTH;                                                     \
    for (size_t i = 0; i < quarter; i += WIDTH) {                                                   \
      s0 += *(const vector *)(x + i);                                                               \
      s1 += *(const vector *)(x + i + quarter);                                                     \
      s2 += *(const vector *)(x + i + 2 * quarter);                                                 \
      s3 += *(const vector *)(x + i + 3 * quarter);                                                 \
    }                                                                                               \
    vector s = s0 + s1 + s2 + s3;                                                                   \
    float sum = 0;                                                                                  \
    for (int i = 0; i < WIDTH; i++) sum += s[i];                                                    \
    return sum;                                                                                     \
  }

#if defined(__x86_64__)
DEFINE_READ(avx512, __attribute__((target("avx512f"))), 64)
DEFINE_READ(avx2, __attribute__((target("avx2"))), 32)
#endif
DEFINE_READ(plain, , 16)

float peaks_read(const float *x, size_t count) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f")) return read_avx512(x, count);
  if (__builtin_cpu_supports("avx2")) return read_avx2(x, count);
#endif
  return read_plain(x, count);
}
