// AVX2, FMA and F16C. Two things are better than plain vector code: powers of two in float, which a shuffle takes from
// a table in a register, and the product of a block, which is in assembly (block.inc). For doubles there is no such
// shuffle.

#if defined(__x86_64__)

// The headers are included before the pragma below, because their functions must keep their own targets.
#include <immintrin.h>
#include <math.h>

#include "../generic/tables.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)

#define ISA avx2
#define VECTOR_BYTES 32
#define PANEL 3
#define PRODUCT_PANEL 3
#define ACCUMULATORS 12
#define PRODUCT_PREFETCHES 0
#define FEW_ROWS_ACCUMULATORS 12
#define FEW_ROWS_KEYS 2
// Prefetching 32768 bytes ahead into the second-level cache is faster than 8192 bytes ahead into the first-level cache
// (Zen 3; Benchmarks/NOTES.md).
#define FEW_ROWS_AHEAD_BYTES 32768
#define FEW_ROWS_AHEAD_LOCALITY 2
#define HAS_FLOAT16
#define BLOCK_IN_ASSEMBLY
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)

// A table of powers of two and the polynomial for the remainder of an exponent, without the constant term. Entry i of
// the table holds the bits of 2^(i/8) minus i << 20, because the kernel adds the whole index, shifted by 20 bits, to
// the entry.
#define F32_POWER_BITS 3u
#define F32_POWER_COEFFICIENTS 0x1.62e430p-1f, 0x1.ec0c32p-3f, 0x1.c6b99ap-5f
static const uint32_t attn_powers_f32[] __attribute__((aligned(32))) = {
    0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7, 0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
#define F32_POWERS(index)                        \
  (attn_vector_u32) _mm256_permutevar8x32_epi32( \
      _mm256_load_si256((const __m256i *)attn_powers_f32), (__m256i)(index))

// a·b + c, but 0 where x ≤ lowest. "Not less or equal" keeps NaN.
#define F32_FMA_ABOVE(x, lowest, a, b, c) \
  _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(lowest), _CMP_NLE_UQ), _mm256_fmadd_ps(a, b, c))

#include "../generic/instantiate.inc"

#pragma clang attribute pop

#endif
