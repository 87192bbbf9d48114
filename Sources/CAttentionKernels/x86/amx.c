// AVX-512 with AMX, a matrix unit for tiles of BFloat16. All kernels but those of matrix.inc are those of avx512.c.
//
// The unit has eight tiles of 16 rows of 64 bytes: 0 to 3 hold C, 4 and 5 hold A, 6 and 7 hold B.

#if defined(__x86_64__)

// The headers are included before the pragma below, because their functions must keep their own targets.
#include <immintrin.h>
#include <math.h>

#include "../generic/tables.h"

#pragma clang attribute push(                                                                        \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,amx-tile,amx-bf16,fma,f16c"))), apply_to = function)

#define ISA amx
#define VECTOR_BYTES 64
#define ONLY_MATRIX
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)
#define F32_LOAD_TAIL(x, count, fill) _mm512_mask_loadu_ps(_mm512_set1_ps(fill), (__mmask16)((1u << (count)) - 1u), x)
#define F32_STORE_TAIL(x, count, v) _mm512_mask_storeu_ps(x, (__mmask16)((1u << (count)) - 1u), v)

#define TILES
#define TILE_ZERO(i, j) _tile_zero(2 * (i) + (j))
#define TILE_LOAD(i, j, address) _tile_loadd(2 * (i) + (j), address, MATRIX_LANES * sizeof(float))
#define TILE_STORE(i, j, address) _tile_stored(2 * (i) + (j), address, MATRIX_LANES * sizeof(float))
#define TILE_A(i, address, stride) _tile_loadd(4 + (i), address, stride)
#define TILE_B(j, address, stride) _tile_loadd(6 + (j), address, stride)
#define TILE_DOT(i, j) _tile_dpbf16ps(2 * (i) + (j), 4 + (i), 6 + (j))
#define TILES_BEGIN configure_tiles();
#define TILES_END _tile_release();
#define PRODUCT_BEGIN
#define PRODUCT_END

// Every tile has 16 rows of 64 bytes.
static void configure_tiles(void) {
  struct {
    uint8_t palette, first_row, reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
  } configuration __attribute__((aligned(64))) = {.palette = 1};
  for (int tile = 0; tile < 8; tile++) {
    configuration.row_bytes[tile] = 64;
    configuration.rows[tile] = 16;
  }
  _tile_loadconfig(&configuration);
}

#include "../generic/instantiate.inc"

#pragma clang attribute pop

#endif
