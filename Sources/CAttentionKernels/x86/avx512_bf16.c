// AVX-512 with products of BFloat16 pairs (AVX512-BF16). All kernels but those of matrix.inc are those of avx512.c.
//
// A tile of sums fills 16 registers, one for each row. Each step of VDPBF16PS takes a pair of a row of A, which the
// instruction broadcasts from memory, and a row of B.

#if defined(__x86_64__)

// The headers are included before the pragma below, because their functions must keep their own targets.
#include <immintrin.h>
#include <math.h>

#include "../generic/tables.h"

#pragma clang attribute push(                                                                        \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,avx512bf16,fma,f16c"))), apply_to = function)

#define ISA avx512_bf16
#define VECTOR_BYTES 64
#define ONLY_MATRIX
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#define F32_LOAD_TAIL(x, count, fill) _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << (count)) - 1u), x)
#define F32_STORE_TAIL(x, count, v) _mm512_mask_storeu_ps(x, (__mmask16)((1u << (count)) - 1u), v)

// c[16, 16] += a·b, where the pairs of b's row k belong to the pair k of a's rows. The products are summed from 0 and then
// added to c. Six products of parts, all added to c one by one, would have errors of up to twice those of plain sums.
static inline __attribute__((always_inline)) void dot_tile(
    const char *a, ptrdiff_t a_stride, const char *b, ptrdiff_t b_stride, float *c) {
  __m512 sum[16];
#pragma clang loop unroll(full)
  for (int row = 0; row < 16; row++) sum[row] = _mm512_setzero_ps();
  for (ptrdiff_t k = 0; k < 16; k++) {
    const __m512i pairs = _mm512_loadu_si512(b + k * b_stride);
#pragma clang loop unroll(full)
    for (int row = 0; row < 16; row++) {
      int pair;
      __builtin_memcpy(&pair, a + row * a_stride + k * 4, sizeof pair);
      sum[row] = _mm512_dpbf16_ps(sum[row], (__m512bh)_mm512_set1_epi32(pair), (__m512bh)pairs);
    }
  }
#pragma clang loop unroll(full)
  for (int row = 0; row < 16; row++)
    _mm512_store_ps(c + row * 16, _mm512_add_ps(_mm512_load_ps(c + row * 16), sum[row]));
}

#define DOT_TILE(a, a_stride, b, b_stride, lanes, c) dot_tile(a, a_stride, b, b_stride, c)

#include "../generic/instantiate.inc"

#pragma clang attribute pop

#endif
