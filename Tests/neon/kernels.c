// Compares the kernels of every instruction set that this machine has with plain C, for machines without Swift.
// Prints a line for each check and ends with "N passed, M failed".

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

// The factor of dropout at one place, by Philox4x32-10 in plain C.
static double kept(const attn_dropout *p, int32_t head, int32_t query, uint32_t key) {
  uint32_t c[4] = {key / 4, (uint32_t)query, (uint32_t)head, p->batch};
  uint32_t low = (uint32_t)p->seed, high = (uint32_t)(p->seed >> 32);
  for (int round = 0; round < 10; round++, low += 0x9e3779b9, high += 0xbb67ae85) {
    const uint64_t a = UINT64_C(0xd2511f53) * c[0], b = UINT64_C(0xcd9e8d57) * c[2];
    const uint32_t next[4] = {
        (uint32_t)(b >> 32) ^ c[1] ^ low, (uint32_t)b, (uint32_t)(a >> 32) ^ c[3] ^ high, (uint32_t)a};
    memcpy(c, next, sizeof c);
  }
  return c[key % 4] >= p->threshold ? p->factor : 0;
}

// Defines the checks of the kernels for one element type. The checks compare results of kernels with those of plain
// code. In check_tiles, the lane kernels together compute the attention of a panel, and the kernel for few rows is
// compared with the lane kernels.
#define DEFINE_CHECKS(T, TYPE, LOWEST, EXACT_EXP2, NEXT, TOLERANCE)                                                \
  static void check_exp2_##T(const attn_kernels *kernels, const char *name) {                                      \
    enum { samples = 200000 };                                                                                     \
    T *x = malloc(samples * sizeof(T)), *y = malloc(samples * sizeof(T));                                          \
    for (int i = 0; i < samples; i++) x[i] = i % 2 ? (T)(LOWEST)*i / samples : (T)(-2 * random_number());          \
    kernels->arrays.exp2(samples, x, y);                                                                                  \
    double worst = 0;                                                                                              \
    for (int i = 0; i < samples; i++) {                                                                            \
      long double exact = EXACT_EXP2(x[i]);                                                                        \
      T near = (T)exact;                                                                                           \
      double error = (double)(fabsl(y[i] - exact) / (NEXT(near, 4) - near));                                       \
      if (error > worst) worst = error;                                                                            \
    }                                                                                                              \
    expect(worst <= 1.5, name, #T ": 2^x, ULP", worst);                                                            \
    T edges[4] = {-INFINITY, NAN, (T)(LOWEST)*2, 0}, got[4];                                                       \
    kernels->arrays.exp2(4, edges, got);                                                                                  \
    expect(got[0] == 0 && got[1] != got[1] && got[2] == 0 && got[3] == 1, name, #T ": 2^x at its edges", got[0]);  \
    free(x);                                                                                                       \
    free(y);                                                                                                       \
  }                                                                                                                \
                                                                                                                   \
  static void check_softmax_##T(const attn_kernels *kernels, const char *name) {                                   \
    enum { longest = 300 };                                                                                        \
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
      kernels->arrays.mask(count, scores, attend);                                                                        \
      for (int i = 0; i < count; i++)                                                                              \
        if (attend[i] && row[i] > most) most = row[i];                                                             \
      if (kernels->arrays.maximum(count, scores) != most) wrong++;                                                        \
      attn_softmax_rows rows = {1, count, count + 1, scores, NULL, NULL, &carried, &sum, &rescale};                \
      kernels->rows.softmax_rows(&rows);                                                                                \
      double total = 0;                                                                                            \
      for (int i = 0; i < count; i++) {                                                                            \
        double exact = attend[i] ? exp((double)row[i] - (double)most) : 0;                                         \
        total += exact;                                                                                            \
        if (!(fabs((double)scores[i] - exact) <= TOLERANCE)) wrong++;                                              \
      }                                                                                                            \
      if (!(fabs((double)sum - total) <= TOLERANCE * (count + 1)) || scores[count] == scores[count]) wrong++;      \
    }                                                                                                              \
    expect(wrong == 0, name, #T ": softmax of rows of 0 to 299, wrong values", wrong);                             \
  }                                                                                                                \
                                                                                                                   \
  static void check_tiles_##T(const attn_kernels *kernels, const char *name) {                                     \
    enum { keys = 37, width = 21, most_rows = 64 };                                                                \
    static T q[most_rows * width], k[keys * width], v[keys * width], bias[most_rows * keys];                       \
    static T panel[width * most_rows], scores[keys * most_rows], result[width * most_rows];                        \
    static T output[most_rows * width], few[most_rows * keys], sums[keys * most_rows];                             \
    for (int i = 0; i < keys * width; i++) k[i] = (T)(random_number() - 0.5), v[i] = (T)(random_number() - 0.5);   \
    int limit = (int)(kernels->lanes.lane_count * kernels->lanes.panel_vector_count);                                          \
    double worst = 0, worst_few = 0;                                                                               \
    int wrong_maxima = 0, wrong_sums = 0, wrong_cuts = 0;                                                          \
    for (int rows = 1; rows <= limit; rows++) {                                                                    \
      for (int i = 0; i < rows * width; i++) q[i] = (T)(random_number() - 0.5);                                    \
      const void *q_rows[most_rows], *bias_rows[most_rows];                                                        \
      void *output_rows[most_rows];                                                                                \
      T maximum[most_rows], sum[most_rows], rescale[most_rows], factor[most_rows];                                 \
      T dot_maximum[most_rows], new_maximum[most_rows];                                                            \
      for (int i = 0; i < most_rows; i++) {                                                                        \
        q_rows[i] = q + i * width, bias_rows[i] = bias + i * keys, output_rows[i] = output + i * width;            \
        maximum[i] = dot_maximum[i] = new_maximum[i] = -INFINITY, sum[i] = 0;                                      \
      }                                                                                                            \
      for (int i = 0; i < rows * keys; i++) bias[i] = i % 7 == 3 ? -INFINITY : (T)random_number();                 \
      ptrdiff_t vectors = (rows + kernels->lanes.lane_count - 1) / kernels->lanes.lane_count;                                  \
      ptrdiff_t stride = vectors * kernels->lanes.lane_count;                                                            \
      attn_pack pack = {rows, width, q_rows, 1, attn_packing_scaled, 0.5, panel, stride, NULL};                    \
      kernels->lanes.pack(&pack);                                                                                        \
      attn_product dots = {.vector_count = vectors, .row_count = keys, .depth = width, .a = k, .row_stride = width,\
                           .column_stride = 1, .b = panel, .b_stride = stride, .c = scores, .c_stride = stride,    \
                           .maximum = dot_maximum, .next = {{v, keys, width * sizeof(T), width * sizeof(T)}, {v, 9, 1, 1}}};\
      kernels->lanes.multiply(&dots);                                                                                    \
      attn_row_product row_dots = {rows, keys, width, q, width, k, width, v, attn_stored_native, few, keys, 0.5, 0};                   \
      kernels->rows.dot_rows(&row_dots);                                                                                \
      for (int i = 0; i < rows; i++)                                                                               \
        for (int j = 0; j < keys; j++) {                                                                           \
          double error = fabs((double)few[i * keys + j] - (double)scores[j * stride + i]);                         \
          if (!(error <= worst_few)) worst_few = error;                                                            \
        }                                                                                                          \
      for (int i = 0; i < rows; i++)                                                                               \
        for (int j = 0; j < keys; j++) wrong_maxima += scores[j * stride + i] > dot_maximum[i];                    \
      attn_pack add = {rows, keys, bias_rows, 1, attn_packing_bias, 1, scores, stride, new_maximum};               \
      kernels->lanes.pack(&add);                                                                                         \
      dots.addend = bias_rows, dots.c = sums, dots.maximum = NULL;                                                 \
      kernels->lanes.multiply(&dots);                                                                                    \
      for (int i = 0; i < rows; i++)                                                                               \
        for (int j = 0; j < keys; j++) wrong_sums += sums[j * stride + i] != scores[j * stride + i];               \
      /* For an even number of rows, the softmax gets no maxima and finds them itself. */                          \
      attn_softmax_lanes softmax = {vectors, keys, stride, scores, NULL, NULL, maximum, sum, rescale,              \
                                    rows % 2 ? new_maximum : NULL, 0, 0};                                          \
      kernels->lanes.softmax_lanes(&softmax);                                                                            \
      for (int i = 0; i < stride; i++) wrong_maxima += maximum[i] != new_maximum[i];                               \
      attn_product values = {.vector_count = vectors, .row_count = width, .depth = keys, .a = v, .row_stride = 1,  \
                             .column_stride = width, .b = scores, .b_stride = stride, .c = result,                 \
                             .c_stride = stride};                                                                  \
      kernels->lanes.multiply(&values);                                                                                  \
      /* The same product, cut along its depth into two parts, then added to zeros. */                             \
      attn_product part = values;                                                                                  \
      part.c = sums, part.depth = 11;                                                                              \
      kernels->lanes.multiply(&part);                                                                                    \
      part.a = v + 11 * width, part.b = scores + 11 * stride, part.depth = keys - 11, part.continues = true;       \
      kernels->lanes.multiply(&part);                                                                                    \
      memset(few, 0, sizeof few);                                                                                  \
      kernels->lanes.add_rescaled(vectors, width, few, stride, rescale, sums, stride);                                   \
      for (int i = 0; i < width * stride; i++) wrong_cuts += few[i] != result[i];                                  \
      for (int i = 0; i < stride; i++) factor[i] = 1 / sum[i];                                                     \
      attn_unpack unpack = {rows, width, result, stride, factor, output_rows, 1};                                  \
      kernels->lanes.unpack(&unpack);                                                                                    \
      for (int i = 0; i < rows; i++) {                                                                             \
        double weights[keys], total = 0;                                                                           \
        for (int j = 0; j < keys; j++) {                                                                           \
          double dot = 0;                                                                                          \
          for (int e = 0; e < width; e++) dot += (double)q[i * width + e] * (double)k[j * width + e];              \
          total += weights[j] = exp(0.5 * dot + (double)bias[i * keys + j]);                                       \
        }                                                                                                          \
        for (int e = 0; e < width; e++) {                                                                          \
          double exact = 0;                                                                                        \
          for (int j = 0; j < keys; j++) exact += weights[j] / total * (double)v[j * width + e];                   \
          double error = fabs((double)output[i * width + e] - exact);                                              \
          if (!(error <= worst)) worst = error;                                                                    \
        }                                                                                                          \
      }                                                                                                            \
    }                                                                                                              \
    expect(worst <= TOLERANCE, name, #T ": attention of panels of 1 row to all lanes", worst);                     \
    expect(wrong_maxima == 0, name, #T ": maxima of products and biases", wrong_maxima);                           \
    expect(wrong_sums == 0, name, #T ": products with an addend", wrong_sums);                                     \
    expect(wrong_cuts == 0, name, #T ": products that are cut along the depth", wrong_cuts);                       \
    expect(worst_few <= TOLERANCE, name, #T ": products of few rows", worst_few);                                  \
  }                                                                                                                \
                                                                                                                   \
  static void check_scores_##T(const attn_kernels *kernels, const char *name) {                                    \
    enum { rows = 5, keys = 45, lanes = 64 };                                                                      \
    static T x[lanes * keys], y[lanes * keys];                                                                     \
    T slope[lanes], position[lanes];                                                                               \
    double worst = 0, worst_distance = 0;                                                                          \
    for (int i = 0; i < lanes * keys; i++) x[i] = y[i] = (T)(8 * random_number() - 4);                             \
    kernels->arrays.softcap(lanes * keys, y, 3);                                                                          \
    for (int i = 0; i < lanes * keys; i++) {                                                                       \
      double error = fabs((double)y[i] - 3 * tanh((double)x[i] / 3));                                              \
      if (!(error <= worst)) worst = error;                                                                        \
    }                                                                                                              \
    expect(worst <= TOLERANCE, name, #T ": softcap", worst);                                                       \
    for (int i = 0; i < lanes; i++) slope[i] = (T)random_number(), position[i] = (T)(i - 7);                       \
    for (int in_lanes = 0; in_lanes < 2; in_lanes++) {                                                             \
      ptrdiff_t count = in_lanes ? kernels->lanes.lane_count : rows, stride = in_lanes ? lanes : keys;                   \
      for (int i = 0; i < lanes * keys; i++) y[i] = x[i];                                                          \
      attn_distance distance = {count, 1, keys, stride, y, slope, position};                                       \
      (in_lanes ? kernels->lanes.distance_lanes : kernels->rows.distance_rows)(&distance);                                    \
      for (int i = 0; i < count; i++)                                                                              \
        for (int j = 0; j < keys; j++) {                                                                           \
          ptrdiff_t at = in_lanes ? j * stride + i : i * stride + j;                                               \
          double error = fabs((double)y[at] - ((double)x[at] - (double)slope[i] * fabs((double)position[i] - j))); \
          if (!(error <= worst_distance)) worst_distance = error;                                                  \
        }                                                                                                          \
    }                                                                                                              \
    expect(worst_distance <= 20 * TOLERANCE, name, #T ": distances", worst_distance);                              \
  }                                                                                                                \
                                                                                                                   \
  static void check_layers_##T(const attn_kernels *kernels, const char *name) {                                    \
    enum { rows = 7, depth = 19, width = 21, lanes = 64 };                                                         \
    static T a[rows * depth], b[depth * lanes], c[rows * lanes], bias[lanes];                                      \
    double worst = 0, worst_norm = 0;                                                                              \
    ptrdiff_t vectors = kernels->lanes.product_vector_count, columns = vectors * kernels->lanes.lane_count;                      \
    for (int i = 0; i < rows * depth; i++) a[i] = (T)(random_number() - 0.5);                                      \
    for (int i = 0; i < depth * lanes; i++) b[i] = (T)(random_number() - 0.5);                                     \
    for (int i = 0; i < lanes; i++) bias[i] = (T)(4 * random_number() - 2);                                        \
    for (attn_activation f = attn_activation_none; f <= attn_activation_silu; f++) {                          \
      attn_product product = {.vector_count = vectors, .row_count = rows, .depth = depth, .a = a,                  \
                              .row_stride = depth, .column_stride = 1, .b = b, .b_stride = columns, .c = c,        \
                              .c_stride = columns, .bias = bias, .activation = f};                                 \
      kernels->lanes.multiply(&product);                                                                                 \
      for (int i = 0; i < rows; i++)                                                                               \
        for (int j = 0; j < columns; j++) {                                                                        \
          double x = (double)bias[j];                                                                              \
          for (int k = 0; k < depth; k++) x += (double)a[i * depth + k] * (double)b[k * columns + j];              \
          double exact = f == attn_activation_relu        ? fmax(x, 0)                                             \
                         : f == attn_activation_gelu      ? x / 2 * erfc(-x * sqrt(0.5))                           \
                         : f == attn_activation_silu      ? x / (1 + exp(-x))                                      \
                         : f == attn_activation_gelu_tanh ? x / 2 * (1 + tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)))\
                                                          : x;                                                     \
          double error = fabs((double)c[i * columns + j] - exact);                                                 \
          if (!(error <= worst)) worst = error;                                                                    \
        }                                                                                                          \
    }                                                                                                              \
    expect(worst <= 4 * TOLERANCE, name, #T ": products with a bias and an activation", worst);                    \
    T y[rows * width];                                                                                             \
    attn_norm norm = {rows, width, true, a, width, b, width, bias, bias + width, 1e-5, y, width};                  \
    norm.row_count = rows * depth / width;                                                                         \
    kernels->layers.norm(&norm);                                                                                    \
    for (int i = 0; i < norm.row_count; i++) {                                                                     \
      double mean = 0, variance = 0;                                                                               \
      for (int j = 0; j < width; j++) mean += ((double)a[i * width + j] + (double)b[i * width + j]) / width;       \
      for (int j = 0; j < width; j++) variance += pow((double)a[i * width + j] + (double)b[i * width + j] - mean, 2) / width;\
      for (int j = 0; j < width; j++) {                                                                            \
        double x = ((double)a[i * width + j] + (double)b[i * width + j] - mean) / sqrt(variance + 1e-5);           \
        double error = fabs((double)y[i * width + j] - (x * (double)bias[j] + (double)bias[width + j]));           \
        if (!(error <= worst_norm)) worst_norm = error;                                                            \
      }                                                                                                            \
    }                                                                                                              \
    expect(worst_norm <= 4 * TOLERANCE, name, #T ": layer norms", worst_norm);                                     \
  }  \
                                                                                                                   \
  static void check_gradients_##T(const attn_kernels *kernels, const char *name) {                                 \
    enum { lanes_most = 16, keys = 37, count = lanes_most * keys };                                                \
    T w[count], g[count], got[count], delta[lanes_most];                                                           \
    for (int i = 0; i < count; i++) {                                                                              \
      w[i] = i % 5 ? (T)random_number() : 0;                                                                       \
      g[i] = i % 7 ? (T)(2 * random_number() - 1) : NAN;                                                           \
    }                                                                                                              \
    for (int i = 0; i < lanes_most; i++) delta[i] = (T)random_number();                                            \
    const int lanes = (int)kernels->lanes.lane_count;                                                              \
    int wrong = 0;                                                                                                 \
    memcpy(got, g, sizeof g);                                                                                      \
    kernels->gradients.score_gradient_lanes(1, keys, lanes, w, delta, got);                                        \
    for (int i = 0; i < lanes * keys; i++) {                                                                       \
      T exact = w[i] == 0 ? 0 : w[i] * (g[i] - delta[i % lanes]);                                                  \
      if (exact != exact ? got[i] == got[i] : got[i] != exact) wrong++;                                            \
    }                                                                                                              \
    for (int n = 0; n <= keys; n++) {                                                                              \
      memcpy(got, g, sizeof g);                                                                                    \
      kernels->gradients.score_gradient_row(n, w, (double)delta[0], got);                                          \
      for (int i = 0; i < n; i++) {                                                                                \
        T exact = w[i] == 0 ? 0 : w[i] * (g[i] - delta[0]);                                                        \
        if (exact != exact ? got[i] == got[i] : got[i] != exact) wrong++;                                          \
      }                                                                                                            \
      if (memcmp(got + n, g + n, sizeof g - (size_t)n * sizeof(T))) wrong++;                                       \
    }                                                                                                              \
    expect(wrong == 0, name, #T ": gradients of scores, wrong numbers", wrong);                                    \
    double worst = 0;                                                                                              \
    for (int n = 0; n <= keys; n++) {                                                                              \
      double sum = 0, dot = 0, distances = 0;                                                                      \
      T total[keys], capped[keys];                                                                                 \
      for (int i = 0; i < n; i++) {                                                                                \
        sum += (double)w[i];                                                                                       \
        dot += (double)w[i] * (double)w[i + 1];                                                                    \
        distances += (double)w[i] * fabs(5.0 - i);                                                                 \
        total[i] = w[i + 1];                                                                                       \
        capped[i] = w[i + 1];                                                                                      \
      }                                                                                                            \
      kernels->gradients.add(n, w, total);                                                                         \
      kernels->gradients.softcap_gradient(n, w, 2, capped);                                                        \
      double errors[3] = {                                                                                         \
          kernels->gradients.sum(n, w) - sum, kernels->gradients.dot(n, w, w + 1) - dot,                           \
          (kernels->gradients.distance_sum(n, w, 5) - distances) / keys};                                          \
      for (int i = 0; i < 3; i++)                                                                                  \
        if (!(fabs(errors[i]) <= worst)) worst = fabs(errors[i]);                                                  \
      for (int i = 0; i < n; i++) {                                                                                \
        double t = (double)w[i] / 2, error = fabs((double)capped[i] - (double)w[i + 1] * (1 - t * t));             \
        if (!(error <= worst)) worst = error;                                                                      \
        if (total[i] != (T)(w[i] + w[i + 1])) worst = INFINITY;                                                    \
      }                                                                                                            \
    }                                                                                                              \
    expect(worst <= 20 * TOLERANCE, name, #T ": sums of gradients", worst);                                        \
    wrong = 0;                                                                                                     \
    const int32_t heads[lanes_most] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};                            \
    const int32_t queries[lanes_most] = {2, 7, 1, 8, 2, 8, 1, 8, 2, 8, 4, 5, 9, 0, 4, 5};                          \
    for (int i = 0; i < count; i++) got[i] = 1;                                                                    \
    attn_dropout dropout = {                                                                                       \
        .vector_count = 1, .key_count = keys, .stride = lanes, .x = got, .heads = heads, .queries = queries, .batch = 6,\
        .first_key = 2, .threshold = 1u << 30, .seed = UINT64_C(0x123456789abcdef0), .factor = 1.5};               \
    kernels->lanes.dropout_lanes(&dropout);                                                                        \
    for (int i = 0; i < lanes * keys; i++)                                                                         \
      if (got[i] != (T)kept(&dropout, heads[i % lanes], queries[i % lanes], 2 + (uint32_t)(i / lanes))) wrong++;   \
    for (int i = 0; i < count; i++) got[i] = 1;                                                                    \
    dropout.row_count = lanes_most;                                                                                \
    dropout.stride = keys;                                                                                         \
    kernels->rows.dropout_rows(&dropout);                                                                          \
    for (int i = 0; i < count; i++)                                                                                \
      if (got[i] != (T)kept(&dropout, heads[i / keys], queries[i / keys], 2 + (uint32_t)(i % keys))) wrong++;      \
    expect(wrong == 0, name, #T ": dropout, wrong places", wrong);                                                 \
  }                                                                                                                \
                                                                                                                   \
  static void check_##T(attn_isa isa, const char *name) {                                                          \
    const attn_kernels *kernels = attn_kernels_for(isa, TYPE);                                                     \
    check_exp2_##T(kernels, name);                                                                                 \
    check_softmax_##T(kernels, name);                                                                              \
    check_tiles_##T(kernels, name);                                                                                \
    check_scores_##T(kernels, name);                                                                                \
    check_layers_##T(kernels, name);                                                                               \
    check_gradients_##T(kernels, name);                                                                            \
  }

DEFINE_CHECKS(float, attn_type_f32, -125.5, exp2, nextafterf, 1e-6)
DEFINE_CHECKS(double, attn_type_f64, -1021.5, exp2l, nextafter, 1e-14)

static double binary16(uint16_t bits) {
  int exponent = bits >> 10 & 31, mantissa = bits & 1023;
  double size = exponent == 0 ? ldexp(mantissa, -24) : exponent == 31 ? (mantissa ? NAN : INFINITY) : ldexp(1024 + mantissa, exponent - 25);
  return bits & 0x8000 ? -size : size;
}

// Types of two bytes: each of the 65536 values is converted to float and back. Products that read elements of two bytes
// in place must have the same bits as products of the same elements in float.
static void check_halves(attn_isa isa, const char *name) {
  const attn_kernels *kernels = attn_kernels_for(isa, attn_type_f32);
  enum { count = 1 << 16, rows = 3, keys = 37, width = 21 };
  static uint16_t bits[count], back[count];
  static float floats[count];
  for (int i = 0; i < count; i++) bits[i] = (uint16_t)i;
  for (attn_half half = attn_half_float16; half <= attn_half_bfloat16; half++) {
    int wrong = 0;
    kernels->halves.widen(half, count, bits, floats);
    kernels->halves.narrow(half, count, floats, back);
    for (int i = 0; i < count; i++) {
      uint32_t wide = (uint32_t)i << 16;
      float brain;
      memcpy(&brain, &wide, sizeof brain);
      double exact = half == attn_half_float16 ? binary16((uint16_t)i) : (double)brain;
      int is_nan = exact != exact;
      if (is_nan ? floats[i] == floats[i] : (double)floats[i] != exact) wrong++;
      if (!is_nan && back[i] != bits[i]) wrong++;
    }
    expect(wrong == 0, name, "two bytes to float and back, wrong values", wrong);

    static uint16_t key[keys * width];
    static float wide[keys * width], q[rows * keys], scores[2][rows * keys], sums[2][rows * width];
    for (int i = 0; i < keys * width; i++) wide[i] = (float)random_number();
    kernels->halves.narrow(half, keys * width, wide, key);
    kernels->halves.widen(half, keys * width, key, wide);
    for (int i = 0; i < rows * keys; i++) q[i] = (float)random_number();
    memset(sums, 0, sizeof sums);
    for (int stored = 0; stored < 2; stored++) {
      attn_stored type = !stored ? attn_stored_native : half == attn_half_float16 ? attn_stored_float16 : attn_stored_bfloat16;
      const void *matrix = stored ? (const void *)key : (const void *)wide;
      attn_row_product dots = {rows, keys, width, q, width, matrix, width, NULL, type, scores[stored], keys, 1, 0};
      kernels->rows.dot_rows(&dots);
      attn_row_product values = {rows, keys, width, sums[stored], width, matrix, width, NULL, type, q, keys, 1, 0};
      kernels->rows.accumulate_rows(&values);
    }
    expect(!memcmp(scores[0], scores[1], sizeof scores[0]) && !memcmp(sums[0], sums[1], sizeof sums[0]), name,
           "products of few rows with elements of two bytes", 0);
  }
}

// Products of BFloat16 parts, against the same products in double. Three parts have all bits of a number.
static void check_parts(attn_isa isa, const char *name) {
  const attn_matrix_kernels *kernels = attn_matrix_kernels_for(isa);
  enum { rows = 37, depth = 64, most_lanes = 32 };
  const ptrdiff_t vectors = kernels->panel_vector_count;
  const ptrdiff_t lanes = vectors * attn_kernels_for(isa, attn_type_f32)->lanes.lane_count;
  static float a[rows * depth], b[depth * most_lanes], c[rows * most_lanes];
  static uint16_t a_parts[3 * rows * depth];
  static uint32_t b_parts[3 * depth / 2 * most_lanes];
  for (int i = 0; i < rows * depth; i++) a[i] = (float)random_number();
  for (int i = 0; i < depth * lanes; i++) b[i] = (float)random_number();
  attn_split_rows split_a = {rows, depth, a, depth, 3, 0, depth, 1e30, a_parts, depth, rows * depth};
  attn_split_lanes split_b = {vectors, depth, b, lanes, 3, 0, depth, 1e30, b_parts, depth / 2 * lanes};
  bool is_within = kernels->split_rows(&split_a) && kernels->split_lanes(&split_b);
  attn_parts_product product = {
      vectors, rows, depth, 3, 3, 2, a_parts, depth, rows * depth, b_parts, depth / 2 * lanes, c, lanes, 1, NULL, NULL};
  kernels->begin();
  kernels->multiply(&product);
  kernels->end();
  double worst = 0;
  for (int row = 0; row < rows; row++)
    for (int lane = 0; lane < lanes; lane++) {
      double sum = 0;
      for (int i = 0; i < depth; i++) sum += (double)a[row * depth + i] * (double)b[i * lanes + lane];
      worst = fmax(worst, fabs(sum - (double)c[row * lanes + lane]));
    }
  expect(is_within && worst < 2e-5, name, "products of BFloat16 parts", worst);
}

int main(void) {
  static const char *const names[] = {"portable", "neon", "avx2", "avx512"};
  for (int isa = attn_isa_portable; isa <= attn_isa_avx512; isa++) {
    if (!attn_isa_is_present((attn_isa)isa)) continue;
    check_float((attn_isa)isa, names[isa]);
    check_double((attn_isa)isa, names[isa]);
    check_halves((attn_isa)isa, names[isa]);
    check_parts((attn_isa)isa, names[isa]);
  }
#if defined(__aarch64__)
  expect(attn_isa_is_present(attn_isa_neon), "neon", "is present", 1);
#endif
  printf("%d passed, %d failed\n", passed, failed);
  return failed != 0;
}
