#ifndef CATTENTION_KERNELS_H
#define CATTENTION_KERNELS_H

// What must be compiled once per instruction set: the softmax of a tile of scores and the row
// operations around it. Every function exists for float (f32) and double (f64); lengths and strides
// count elements; pointers need only the element's alignment.
//
// Contracts are asserted by the callers in Swift: lengths are not negative, pointers are valid.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum attn_isa {
  attn_isa_portable = 0,
  attn_isa_neon = 1,
  attn_isa_avx2 = 2,
  attn_isa_avx512 = 3,
} attn_isa;

/// True if this machine (CPU and operating system) runs the kernels of `isa`.
bool attn_isa_is_present(attn_isa isa);

// One block of rows of a tile of scores. The softmax is online (Milakov and Gimelshein 2018,
// arXiv:1805.02867, Algorithm 3): `maximum` and `sum` carry over from tile to tile.
//
// For row r with attended columns [begin[r], end[r]):
//   m' = max(m, max scores),  weights = exp(scores − m'),  rescale = exp(m − m') (1 if m = −inf),
//   l' = l · rescale + Σ weights.
// Columns outside the interval get weight 0 whatever they hold. A row that has attended to nothing so
// far keeps m = −inf, l = 0 and rescale = 1. A NaN that is attended makes l NaN for good.
#define ATTN_SOFTMAX_TILE(T)                                                                        \
  struct {                                                                                          \
    ptrdiff_t row_count, column_count, stride;                                                      \
    T *scores;                  /* [row_count, column_count], scores in, weights out */             \
    const int64_t *begin, *end; /* [row_count]; NULL: every column is attended */                   \
    T *maximum, *sum, *rescale; /* [row_count] */                                                   \
  }

typedef ATTN_SOFTMAX_TILE(float) attn_f32_softmax_tile;
typedef ATTN_SOFTMAX_TILE(double) attn_f64_softmax_tile;

#define ATTN_KERNELS(T, TILE)                                                                       \
  struct {                                                                                          \
    /* The online softmax of one tile, see above. */                                                \
    void (*softmax_tile)(const TILE *tile);                                                         \
    /* The largest of x, NaN left out; −inf where there is none. */                                 \
    T (*maximum)(ptrdiff_t count, const T *x);                                                      \
    /* y = exp(x − shift); returns Σ y. x may be y. x − shift must not be positive. */              \
    T (*exponential_sum)(ptrdiff_t count, const T *x, T shift, T *y);                               \
    /* y = x · factor. x may be y. */                                                               \
    void (*scale)(ptrdiff_t count, const T *x, T factor, T *y);                                     \
    /* scores += bias; where bias is −inf, −inf replaces the score, even NaN. */                    \
    void (*add_bias)(ptrdiff_t count, T *scores, const T *bias);                                    \
    /* −inf replaces the score where attend is 0. */                                                \
    void (*mask)(ptrdiff_t count, T *scores, const uint8_t *attend);                                \
    /* True if no element is infinite or NaN. */                                                    \
    bool (*is_finite)(ptrdiff_t count, const T *x);                                                 \
    /* y = 2^x for x ≤ 0: the function inside the softmax, to be tested by itself. */               \
    void (*exp2)(ptrdiff_t count, const T *x, T *y);                                                \
  }

typedef ATTN_KERNELS(float, attn_f32_softmax_tile) attn_f32_kernels;
typedef ATTN_KERNELS(double, attn_f64_softmax_tile) attn_f64_kernels;

/// The kernels of one instruction set; NULL where it is absent. The tables are constants.
const attn_f32_kernels *attn_f32_kernels_for(attn_isa isa);
const attn_f64_kernels *attn_f64_kernels_for(attn_isa isa);

#endif
