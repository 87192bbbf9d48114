// AVX-512 (F, BW, DQ, VL). Three things are better than plain vector code: rounding in one instruction,
// scaling by 2^n in one, and masked loads and stores for the tails.

#if defined(__x86_64__)

// Before the push: the headers' own functions must keep their own targets.
#include <immintrin.h>
#include <math.h>

#include "kernels/tables.h"

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c"))), apply_to = function)

#define ISA avx512
#define VECTOR_BYTES 64
#define PANEL 3
#define PRODUCT_PANEL 4
#define ACCUMULATORS 24
#define HAS_FLOAT16
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)

// 8: to nearest even, without raising the inexact exception.
#define F32_ROUND(t) _mm512_roundscale_ps(t, 8)
#define F64_ROUND(t) _mm512_roundscale_pd(t, 8)

// "Not less or equal" keeps NaN; what is too small, −inf with it, becomes 0.
#define F32_SCALE(p, n, t, lowest) \
  _mm512_maskz_scalef_ps(_mm512_cmp_ps_mask(t, _mm512_set1_ps(lowest), _CMP_NLE_UQ), p, n)
#define F64_SCALE(p, n, t, lowest) \
  _mm512_maskz_scalef_pd(_mm512_cmp_pd_mask(t, _mm512_set1_pd(lowest), _CMP_NLE_UQ), p, n)

#define TAIL(count) ((1u << (count)) - 1u)
#define F32_LOAD_TAIL(x, count, fill) _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)TAIL(count), x)
#define F64_LOAD_TAIL(x, count, fill) _mm512_mask_loadu_pd(_mm512_set1_pd(fill), (__mmask8)TAIL(count), x)
#define F32_STORE_TAIL(x, count, v) _mm512_mask_storeu_ps(x, (__mmask16)TAIL(count), v)
#define F64_STORE_TAIL(x, count, v) _mm512_mask_storeu_pd(x, (__mmask8)TAIL(count), v)

// Which of a byte for each lane are 0, as bits; and −inf in the lanes whose 16 bits have a certain one.
#define F32_ZERO_BYTES(x) _mm_testn_epi8_mask(_mm_loadu_si128((const void *)(x)), _mm_set1_epi8(-1))
#define F64_ZERO_BYTES(x) (__mmask8)_mm_testn_epi8_mask(_mm_loadu_si64(x), _mm_set1_epi8(-1))
#define F32_HIDE(y, bits, one)                                                                                    \
  _mm512_mask_mov_ps(                                                                                             \
      y, _mm256_test_epi16_mask(_mm256_loadu_si256((const void *)(bits)), _mm256_set1_epi16((short)(one))),       \
      _mm512_set1_ps(-INFINITY))
#define F64_HIDE(y, bits, one)                                                                                    \
  _mm512_mask_mov_pd(                                                                                             \
      y, _mm_test_epi16_mask(_mm_loadu_si128((const void *)(bits)), _mm_set1_epi16((short)(one))),                \
      _mm512_set1_pd(-INFINITY))

#include "kernels/instantiate.h"

#pragma clang attribute pop

#endif
