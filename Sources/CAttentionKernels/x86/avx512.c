// AVX-512 (F, BW, DQ, VL). Three things are better than plain vector code: powers of two from a table in two registers,
// masked loads and stores for the tails, and boolean masks as bits.

#if defined(__x86_64__)

// The headers are included before the pragma below, because their functions must keep their own targets.
#include <immintrin.h>
#include <math.h>

#include "../generic/tables.h"

#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,f16c"))), apply_to = function)

#define ISA avx512
#define VECTOR_BYTES 64
#define PANEL 3
#define PRODUCT_PANEL 4
#define ACCUMULATORS 24
#define PRODUCT_PREFETCHES 1
#define FEW_ROWS_ACCUMULATORS 16
#define FEW_ROWS_KEYS 4
// With these values, decoding on one thread takes 9 to 13 % less time than with prefetches 32768 bytes ahead into the
// second-level cache (Zen 5; Benchmarks/NOTES.md).
#define FEW_ROWS_AHEAD_BYTES 8192
#define FEW_ROWS_AHEAD_LOCALITY 3
#define HAS_FLOAT16
#define ADDEND_BESIDE_PRODUCT
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)

// Tables of powers of two and the polynomials for the remainder of an exponent, without the constant term. Entry i
// holds the bits of 2^(i/32) minus i << 18 (float), or of 2^(i/16) minus i << 48 (double), because the kernel adds the
// whole index, shifted by 18 or 48 bits, to the entry.
#define F32_POWER_BITS 5u
#define F64_POWER_BITS 4u
#define F32_POWER_COEFFICIENTS 0x1.62e430p-1f, 0x1.ebfcccp-3f, 0x1.c6b110p-5f
#define F64_POWER_COEFFICIENTS                                                                                   \
  0x1.62e42fefa39fdp-1, 0x1.ebfbdff82c5b1p-3, 0x1.c6b08d6e85546p-5, 0x1.3b2ab6f8944d3p-7, 0x1.5d89c0bb77d56p-10, \
  0x1.430cbb5c1c218p-13
static const uint32_t attn_powers_f32[] __attribute__((aligned(64))) = {
    0x3f800000, 0x3f7ecd87, 0x3f7daac3, 0x3f7c980f, 0x3f7b95c2, 0x3f7aa43a, 0x3f79c3d3, 0x3f78f4f0,
    0x3f7837f0, 0x3f778d3a, 0x3f76f532, 0x3f767043, 0x3f75fed7, 0x3f75a15b, 0x3f75583f, 0x3f7523f6,
    0x3f7504f3, 0x3f74fbaf, 0x3f7508a4, 0x3f752c4d, 0x3f75672a, 0x3f75b9be, 0x3f76248c, 0x3f76a81e,
    0x3f7744fd, 0x3f77fbb8, 0x3f78ccdf, 0x3f79b907, 0x3f7ac0c7, 0x3f7be4ba, 0x3f7d257d, 0x3f7e83b3};
static const uint64_t attn_powers_f64[] __attribute__((aligned(64))) = {
    0x3ff0000000000000, 0x3fefb5586cf9890f, 0x3fef72b83c7d517b, 0x3fef387a6e756238,
    0x3fef06fe0a31b715, 0x3feedea64c123422, 0x3feebfdad5362a27, 0x3feeab07dd485429,
    0x3feea09e667f3bcd, 0x3feea11473eb0187, 0x3feeace5422aa0db, 0x3feec49182a3f090,
    0x3feee89f995ad3ad, 0x3fef199bdd85529c, 0x3fef5818dcfba487, 0x3fefa4afa2a490da};
#define F32_POWERS(index)                                                                                         \
  (attn_vector_u32) _mm512_permutex2var_epi32(                                                                    \
      _mm512_load_si512(attn_powers_f32), (__m512i)(index), _mm512_load_si512(attn_powers_f32 + 16))
#define F64_POWERS(index)                                                                                         \
  (attn_vector_u64) _mm512_permutex2var_epi64(                                                                    \
      _mm512_load_si512(attn_powers_f64), (__m512i)(index), _mm512_load_si512(attn_powers_f64 + 8))

// a·b + c, but 0 where x ≤ lowest. "Not less or equal" keeps NaN.
#define F32_FMA_ABOVE(x, lowest, a, b, c) \
  _mm512_maskz_fmadd_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(lowest), _CMP_NLE_UQ), a, b, c)
#define F64_FMA_ABOVE(x, lowest, a, b, c) \
  _mm512_maskz_fmadd_pd(_mm512_cmp_pd_mask(x, _mm512_set1_pd(lowest), _CMP_NLE_UQ), a, b, c)

#define TAIL(count) ((1u << (count)) - 1u)
#define F32_LOAD_TAIL(x, count, fill) _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)TAIL(count), x)
#define F64_LOAD_TAIL(x, count, fill) _mm512_mask_loadu_pd(_mm512_set1_pd(fill), (__mmask8)TAIL(count), x)
#define F32_STORE_TAIL(x, count, v) _mm512_mask_storeu_ps(x, (__mmask16)TAIL(count), v)
#define F64_STORE_TAIL(x, count, v) _mm512_mask_storeu_pd(x, (__mmask8)TAIL(count), v)

// ZERO_BYTES: a bit for each lane, 1 if the lane's byte is 0. HIDE: y, but −inf in the lanes whose 16 bits in `bits`
// contain the bit `one`.
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

#include "../generic/instantiate.inc"

#pragma clang attribute pop

#endif
