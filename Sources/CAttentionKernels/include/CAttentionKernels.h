#ifndef CATTENTION_KERNELS_H
#define CATTENTION_KERNELS_H

// The functions that must be compiled once per instruction set: the products and the softmax of a tile of scores, and
// the row operations around them. Every function exists for float and for double, except those of attn_half_kernels and
// attn_matrix_kernels, which exist only for float. Pointers to void point to elements of the type of the function's
// table. Lengths and strides count elements; pointers need only the element's alignment. Numbers passed as double are
// rounded to the element type, except the epsilon of a norm.
//
// The functions check nothing. Callers guarantee that lengths are not negative and that pointers are valid.
//
// A tile of scores has one of two layouts. In *rows* each query is a row, and keys, or the elements of one key or
// value, run along the vectors' lanes. In *lanes* the queries themselves run along the lanes, in panels of 1 to
// `panel_vector_count` vectors: element i of a panel's query q is at i·stride + q. Panels of products that do not
// belong to a tile of scores have up to `product_vector_count` vectors.

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#pragma clang assume_nonnull begin

typedef enum attn_isa {
  attn_isa_portable = 0,
  attn_isa_neon = 1,
  attn_isa_avx2 = 2,
  attn_isa_avx512 = 3,
  attn_isa_avx512_bf16 = 4,
  attn_isa_amx = 5,
} attn_isa;
enum { attn_isa_count = 6 };

/// True if this machine (CPU and operating system) runs the kernels of `isa`. The first call for AMX asks the operating
/// system to let this process use AMX. If the operating system refuses, AMX is not present.
bool attn_isa_is_present(attn_isa isa);

/// True if this thread traps any floating-point exception, and always on architectures other than x86-64 and AArch64.
/// The function takes a few cycles, whereas fegetenv takes 60 ns.
static inline bool attn_traps_exceptions(void) {
#if defined(__x86_64__)
  // MXCSR: an exception traps if its mask bit is 0.
  return (~__builtin_ia32_stmxcsr() & 0x1f80) != 0;
#elif defined(__aarch64__)
  // FPCR: enable bits of invalid, division by zero, overflow, underflow, inexact; and of denormal inputs.
  uint64_t control;
  __asm__ volatile("mrs %0, fpcr" : "=r"(control));
  return (control & 0x9f00) != 0;
#else
  return true;
#endif
}

typedef enum attn_type { attn_type_f32 = 0, attn_type_f64 = 1 } attn_type;

// The online softmax (Milakov and Gimelshein 2018, arXiv:1805.02867, Algorithm 3) of some rows of scores: `maximum` (m)
// and `sum` (l) carry over from tile to tile. m' and l' are their new values. For row r with attended columns
// [begin[r], end[r]):
//   m' = max(m, max scores),  weights = exp(scores − m'),  rescale = exp(m − m') (1 if m = −inf),
//   l' = l · rescale + Σ weights.
// Columns outside the interval get weight 0, even if their score is NaN. A row that has attended to nothing so far
// keeps m = −inf, l = 0 and rescale = 1. A NaN that is attended makes l NaN for good. A row that has attended only to
// NaN gets m = NaN.
typedef struct attn_softmax_rows {
  ptrdiff_t row_count, column_count, stride;
  void *scores; // [row_count, column_count], scores in, weights out
  const void *_Nullable begin, *_Nullable end; // [row_count] whole numbers; NULL: every column is attended
  void *maximum, *sum, *rescale; // [row_count]
} attn_softmax_rows;

// The online softmax of attn_softmax_rows for every lane of a panel, with two differences: a lane that has attended
// only to NaN keeps m = −inf, with l = NaN; and where m = −inf, rescale is 1 if m' = −inf too, else 0.
typedef struct attn_softmax_lanes {
  ptrdiff_t vector_count, key_count, stride;
  void *scores; // [key_count, lanes], scores in, weights out
  const void *_Nullable begin, *_Nullable end; // [lanes] whole numbers: attended keys; NULL: all
  void *maximum, *sum, *rescale; // [lanes]
  // [lanes], `maximum` raised to the maxima of the scores, where these are known; NULL: they are not.
  const void *_Nullable new_maximum;
  // The range of keys to which every lane attends, if `begin` and `new_maximum` are given. `new_maximum` then covers
  // only the scores of these keys, and the kernel finds the maxima of the other keys.
  ptrdiff_t common_begin, common_end;
} attn_softmax_lanes;

// An activation f: a function of one number, which is applied to each element.
typedef enum attn_activation {
  attn_activation_none = 0,
  attn_activation_relu = 1,      // max(x, 0)
  attn_activation_gelu = 2,      // x·Φ(x)
  attn_activation_gelu_tanh = 3, // x/2·(1 + tanh(√(2/π)·(x + 0.044715·x³)))
  attn_activation_silu = 4,      // x / (1 + e^−x)
} attn_activation;

// Rows that are prefetched because they will be needed soon. The bytes of a row are contiguous. base NULL: no rows.
typedef struct attn_ahead {
  const void *_Nullable base;
  ptrdiff_t row_count, stride, byte_count; // stride in bytes
} attn_ahead;

// One product of a panel: c[row_count, lanes] = c·rescale + a[row_count, depth]·b[depth, lanes], or a·b + addendᵀ.
// One of a's two strides must be 1. Each element is summed from the first step of the depth to the last. So its bits do
// not depend on the other rows and lanes, or on steps whose product is 0.
typedef struct attn_product {
  ptrdiff_t vector_count, row_count, depth;
  const void *a;
  ptrdiff_t row_stride, column_stride;
  const void *b;
  ptrdiff_t b_stride;
  void *c;
  ptrdiff_t c_stride;
  const void *_Nullable rescale; // [lanes]; NULL: c is only written
  // If true, sums start from c instead of 0, so that a product that is cut along its depth has the bits of the whole
  // product. Excludes rescale, addend and maximum.
  bool continues;
  // After the product, each element of c becomes f(c + bias), where f is `activation`.
  const void *_Nullable bias; // [lanes]; NULL: none
  attn_activation activation;
  // A row of row_count elements for each lane, added as by add_bias; NULL: none. Excludes rescale, bias and activation.
  const void *_Nonnull const *_Nullable addend;
  // [lanes], raised to the largest of each lane of a·b + addendᵀ, NaN left out; NULL: not wanted.
  void *_Nullable maximum;
  // Rows to prefetch into the second-level cache, spread over the rows of A.
  attn_ahead next[2];
} attn_product;

// The norm of every row of z = x + residual: y = (z − μ) / √(mean((z − μ)²) + ε) · weight + bias.
// Layer norm: μ is the mean of z. RMS norm: μ is 0. y may be x or the residual.
typedef struct attn_norm {
  ptrdiff_t row_count, column_count;
  bool is_centred; // true: layer norm; false: RMS norm
  const void *x;
  ptrdiff_t x_stride;
  const void *_Nullable residual; // NULL: none
  ptrdiff_t residual_stride;
  const void *weight;         // [column_count]
  const void *_Nullable bias; // [column_count]; NULL: none
  double epsilon;
  void *y;
  ptrdiff_t y_stride;
} attn_norm;

// The backward pass of attn_norm. `gradient` is the gradient of y on entry, and that of z = x + residual on return. The
// gradients of weight and bias are added to `weight_gradient` and `bias_gradient`, unless these are NULL.
typedef struct attn_norm_gradient {
  ptrdiff_t row_count, column_count;
  bool is_centred; // true: layer norm; false: RMS norm
  const void *x;
  ptrdiff_t x_stride;
  const void *_Nullable residual; // NULL: none
  ptrdiff_t residual_stride;
  const void *weight; // [column_count]
  double epsilon;
  void *gradient;
  ptrdiff_t gradient_stride;
  void *_Nullable weight_gradient, *_Nullable bias_gradient; // [column_count]
} attn_norm_gradient;

// How the elements of keys or values are stored: in the element type of the kernels, or, only for the float kernels, in
// two bytes.
typedef enum attn_stored { attn_stored_native = 0, attn_stored_float16 = 1, attn_stored_bfloat16 = 2 } attn_stored;

// One product of a few rows:
//   dot_rows: scores[row_count, key_count] = factor · rows[row_count, column_count]·key[key_count, column_count]ᵀ,
//   accumulate_rows: rows[row_count, column_count] += scores[row_count, key_count]·key[key_count, column_count],
// where the `key` of accumulate_rows holds the values. accumulate_rows begins a new sum of weighted values at every key
// whose number is a multiple of 32; the first key has the number `first_index`. Elements of a row are contiguous.
typedef struct attn_row_product {
  ptrdiff_t row_count, key_count, column_count;
  void *rows;
  ptrdiff_t row_stride;
  const void *key;
  ptrdiff_t key_stride;
  const void *_Nullable next; // the key after the last, to be prefetched; NULL: it is key_stride further on
  attn_stored stored;
  void *scores;
  ptrdiff_t score_stride;
  double factor;
  ptrdiff_t first_index;
} attn_row_product;

// What becomes of y, for each element x that attn_pack packs.
typedef enum attn_packing {
  attn_packing_scaled = 0,  // y = x · factor
  attn_packing_bias = 1,    // y += x, as add_bias
  attn_packing_boolean = 2, // x are bytes: where one is 0, y = −inf
} attn_packing;

// Transposes rows into lanes: y[column, row] takes x = rows[row][column], as `packing` says. Lanes that fill up the
// last vector repeat the last row.
typedef struct attn_pack {
  ptrdiff_t row_count, column_count;
  const void *_Nonnull const *_Nonnull rows;
  ptrdiff_t column_stride;
  attn_packing packing;
  double factor;
  void *y;
  ptrdiff_t stride;
  void *_Nullable maximum; // [lanes], raised to the largest of each lane of y, NaN left out; NULL: not wanted
} attn_pack;

// Lanes into rows: rows[row][column] = x[column, row] · factor[row].
typedef struct attn_unpack {
  ptrdiff_t row_count, column_count;
  const void *x;
  ptrdiff_t stride;
  const void *factor;
  void *_Nonnull const *_Nonnull rows;
  ptrdiff_t column_stride;
} attn_unpack;

// Subtracts a slope times the distance between query and key from the scores of some rows, or of every lane of a panel:
//   score −= slope·|position − key|, where keys are counted from the first key of `scores`.
typedef struct attn_distance {
  ptrdiff_t row_count, vector_count, key_count, stride; // row_count for rows, vector_count for lanes
  void *scores;
  const void *slope, *position; // [row_count], or [lanes]
} attn_distance;

// Dropout of the weights x of some rows, or of every lane of a panel:
//   x ·= factor if the random number of the weight is at least `threshold`, else x ·= 0.
// The random number has 32 bits, and follows from the seed, the batch, and the weight's head, query and key.
typedef struct attn_dropout {
  ptrdiff_t row_count, vector_count, key_count, stride; // row_count for rows, vector_count for lanes
  void *x;
  const int32_t *heads, *queries; // [row_count], or [lanes]
  uint32_t batch, first_key, threshold;
  uint64_t seed;
  double factor;
} attn_dropout;

// Types of two bytes.
typedef enum attn_half {
  attn_half_float16 = 0,  // binary16
  attn_half_bfloat16 = 1, // the upper half of binary32
} attn_half;

// The kernels of one instruction set and element type are in groups. This group works on arrays of `count` elements.
typedef struct attn_array_kernels {
  // The largest element, ignoring NaN; −inf if there is none.
  double (*maximum)(ptrdiff_t count, const void *x);
  // y = exp(x − shift); returns Σ y. x may be y. x − shift must not be positive.
  double (*exponential_sum)(ptrdiff_t count, const void *x, double shift, void *y);
  // y = x · factor. x may be y.
  void (*scale)(ptrdiff_t count, const void *x, double factor, void *y);
  // scores += bias. Where the bias or the score is −inf, the result is −inf, even if the other one is NaN.
  void (*add_bias)(ptrdiff_t count, void *scores, const void *bias);
  // −inf replaces the score where attend is 0.
  void (*mask)(ptrdiff_t count, void *scores, const uint8_t *attend);
  // True if no element is infinite or NaN.
  bool (*is_finite)(ptrdiff_t count, const void *x);
  // y = 2^x for x ≤ 0: the function inside the softmax, available so that it can be tested by itself.
  void (*exp2)(ptrdiff_t count, const void *x, void *y);
  // x = cap·tanh(x / cap).
  void (*softcap)(ptrdiff_t count, void *x, double cap);
} attn_array_kernels;

// Scores with a row for each query.
typedef struct attn_row_kernels {
  void (*softmax_rows)(const attn_softmax_rows *);
  void (*dot_rows)(const attn_row_product *);
  void (*accumulate_rows)(const attn_row_product *);
  void (*distance_rows)(const attn_distance *);
  void (*dropout_rows)(const attn_dropout *);
} attn_row_kernels;

// Scores with a lane for each query, and products of matrices.
typedef struct attn_lane_kernels {
  ptrdiff_t lane_count, panel_vector_count, product_vector_count;
  void (*pack)(const attn_pack *);
  // y[row, column] = x[row, column]·factor, and 0 from column_count up to y_stride. Rows stay rows, unlike in `pack`.
  void (*copy_rows)(
      ptrdiff_t row_count, ptrdiff_t column_count, const void *x, ptrdiff_t stride, double factor, void *y,
      ptrdiff_t y_stride);
  // Writes lanes back to rows. Returns true if every x is finite, including the lanes that fill up the last vector.
  bool (*unpack)(const attn_unpack *);
  void (*multiply)(const attn_product *);
  void (*softmax_lanes)(const attn_softmax_lanes *);
  // y[row_count, lanes] = y·rescale + x, where x is a sum that was computed separately.
  void (*add_rescaled)(
      ptrdiff_t vector_count, ptrdiff_t row_count, void *y, ptrdiff_t y_stride, const void *rescale, const void *x,
      ptrdiff_t x_stride);
  void (*distance_lanes)(const attn_distance *);
  void (*dropout_lanes)(const attn_dropout *);
} attn_lane_kernels;

// What follows products in the layers of a model.
typedef struct attn_layer_kernels {
  // x = f(x), where f is the activation.
  void (*activate)(attn_activation, ptrdiff_t count, void *x);
  void (*norm)(const attn_norm *);
  // gradient ·= f'(x), where f is the activation.
  void (*activation_gradient)(attn_activation, ptrdiff_t count, const void *x, void *gradient);
  void (*norm_gradient)(const attn_norm_gradient *);
  // y[column] += Σ x[row, column]. Rows are added in order.
  void (*add_rows)(ptrdiff_t row_count, ptrdiff_t column_count, const void *x, ptrdiff_t stride, void *y);
} attn_layer_kernels;

// Steps of the backward pass between its products.
typedef struct attn_gradient_kernels {
  // y += x.
  void (*add)(ptrdiff_t count, const void *x, void *y);
  // Σ x.
  double (*sum)(ptrdiff_t count, const void *x);
  // Σ x·y.
  double (*dot)(ptrdiff_t count, const void *x, const void *y);
  // Σ x[i]·|position − i|.
  double (*distance_sum)(ptrdiff_t count, const void *x, double position);
  // The gradient of softcap: gradient ·= 1 − (capped / cap)², where `capped` is softcap's result.
  void (*softcap_gradient)(ptrdiff_t count, const void *capped, double cap, void *gradient);
  // The gradient of the softmax: gradient = weight·(gradient − delta), but 0 where the weight is 0, unless delta is
  // NaN. `delta` has an element for each lane, or is the one number of a row.
  void (*score_gradient_lanes)(
      ptrdiff_t vector_count, ptrdiff_t key_count, ptrdiff_t stride, const void *weights, const void *delta,
      void *gradient);
  void (*score_gradient_row)(ptrdiff_t count, const void *weights, double delta, void *gradient);
} attn_gradient_kernels;

// Conversions from and to types of two bytes, rounded to nearest, ties to even. In the tables of double they are NULL.
typedef struct attn_half_kernels {
  void (*_Nullable widen)(attn_half, ptrdiff_t count, const uint16_t *x, void *y);
  void (*_Nullable narrow)(attn_half, ptrdiff_t count, const void *x, uint16_t *y);
} attn_half_kernels;

// Numbers are split into BFloat16 parts, largest first, whose sum is the number, or nearly so. One part has the first 8
// significant bits of a number, two parts have 16, and three parts have all 24. Products of parts are exact in float.
//
// Here rows stay rows: part i of x[row, column] goes to y[i·part_stride + row·y_stride + before + column]. Each row of
// y begins with `before` zeros and is filled up with 0 to padded_count. split_rows returns false if the absolute value
// of an x is above `greatest`, or if an x is NaN.
typedef struct attn_split_rows {
  ptrdiff_t row_count, column_count;
  const void *x;
  ptrdiff_t x_stride, part_count, before, padded_count;
  double greatest;
  uint16_t *y;
  ptrdiff_t y_stride, part_stride;
} attn_split_rows;

// The same for the rows of a panel, x[row_count, lanes], in pairs: word [pair, lane] of y holds the parts of rows
// 2·pair (in the lower half) and 2·pair + 1 of that lane. The rows are counted from the first of `before` rows of 0,
// which precede those of x. padded_count, a multiple of 2, counts all rows, including those of 0.
typedef struct attn_split_lanes {
  ptrdiff_t vector_count, row_count;
  const void *x;
  ptrdiff_t x_stride, part_count, before, padded_count;
  double greatest;
  uint32_t *y;
  ptrdiff_t part_stride;
} attn_split_lanes;

// c[row_count, lanes] = factor · Σ a[i]·b[j], or c·rescale + factor · Σ a[i]·b[j], over all parts i and j with
// i + j ≤ limit. a's rows are those of attn_split_rows, and b is a panel of attn_split_lanes. The depth is a multiple of
// 32. Each element is summed part by part, the smallest products first, and from the first step of the depth to the last.
// So its bits do not depend on the other rows and lanes, or on groups of 32 steps whose products are 0.
typedef struct attn_parts_product {
  ptrdiff_t vector_count, row_count, depth;
  ptrdiff_t a_part_count, b_part_count, limit;
  const uint16_t *a;
  ptrdiff_t a_stride, a_part_stride;
  const uint32_t *b;
  ptrdiff_t b_part_stride; // words
  void *c;
  ptrdiff_t c_stride;
  double factor;
  const void *_Nullable rescale; // [lanes]; NULL: c is only written
  void *_Nullable maximum; // [lanes], raised to the largest of each lane of factor · Σ, NaN left out; NULL: not wanted
} attn_parts_product;

// Products of parts, computed by a matrix unit. Where there is none, vectors compute them, with the same results as
// Intel's AMX. These kernels exist only for float. A thread calls `begin` before such products and `end` after them.
typedef struct attn_matrix_kernels {
  ptrdiff_t panel_vector_count;
  void (*begin)(void);
  void (*end)(void);
  bool (*split_rows)(const attn_split_rows *);
  bool (*split_lanes)(const attn_split_lanes *);
  void (*multiply)(const attn_parts_product *);
} attn_matrix_kernels;

typedef struct attn_kernels {
  attn_array_kernels arrays;
  attn_row_kernels rows;
  attn_lane_kernels lanes;
  attn_layer_kernels layers;
  attn_gradient_kernels gradients;
  attn_half_kernels halves;
} attn_kernels;

/// The kernels of one instruction set and element type; NULL if the set is not present. The tables are constants.
const attn_kernels *_Nullable attn_kernels_for(attn_isa isa, attn_type type);

/// The products of parts by one instruction set; NULL if the set is not present.
const attn_matrix_kernels *_Nullable attn_matrix_kernels_for(attn_isa isa);

#pragma clang assume_nonnull end

#endif
