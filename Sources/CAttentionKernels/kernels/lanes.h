// Attention with queries along the lanes: Sᵀ = K·Qᵀ and Oᵀ = Vᵀ·Pᵀ. See instantiate.h for the names.
//
// A panel is up to PANEL vectors of queries. Both products are then the same: rows of keys, or columns of
// values, are broadcast from where they lie, whatever E and Ev, and the maximum and the sum of the
// softmax run down the lanes, without a reduction.

#ifdef BLOCK_IN_ASSEMBLY
#include "block_x86.h"
#endif

// Rows of A that fill the registers beside `vectors` of B.
#define ROWS(vectors) (ACCUMULATORS / (vectors) > 16 ? 16 : ACCUMULATORS / (vectors))
#ifdef ADDEND_BESIDE_PRODUCT
_Static_assert(
    ADDEND_ROWS % LANES == 0 && ADDEND_ROWS % ROWS(1) == 0 && ADDEND_ROWS % ROWS(2) == 0 && ADDEND_ROWS % ROWS(3) == 0 &&
        ADDEND_ROWS >= 16 + 2 * LANES,
    "squares and blocks are not to go round the ring's end, and those ahead not to meet those in use");
#endif

// Blocks that prefetch for themselves. Smaller ones have as many loads as the CPU takes.
#define PREFETCHES(rows, vectors) (VECTOR_BYTES == 64 && (vectors) > 1 && (rows) == ROWS(vectors))

// Steps that a product is ahead of itself, with vectors as long as a line: of A where a step is a column of values a row
// apart, no stream that the CPU foresees, and of B always, a row of which is several lines. Often it is more than the first level
// holds. 12 to 24 in A and 2 to 6 in B are alike.
#define A_STEPS_AHEAD 16
#define B_STEPS_AHEAD 4

// One step along the depth: a column of A's rows times a row of B. `second` is the address of the ninth row.
static inline INLINE void NAME(multiply_step)(
    const int rows, const int vectors, V sum[][PRODUCT_PANEL], const char *first, const char *second, attn_strides row, const char *b) {
  V lanes[PRODUCT_PANEL];
  UNROLL for (int v = 0; v < vectors; v++) lanes[v] = NAME(load)((const T *)b + v * LANES);
  UNROLL for (int i = 0; i < rows; i++) {
    V x = (V)*(const T *)((i < 8 ? first : second) + attn_times(row, i % 8));
    UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = FMA(x, lanes[v], sum[i][v]);
  }
}

// What is `next` is prefetched, a pair of lines for every four steps, `next_pitch` bytes apart.
static inline INLINE void NAME(multiply_rows)(
    const int rows, const int vectors, ptrdiff_t depth, const T *a, ptrdiff_t row_stride, ptrdiff_t column_stride,
    const T *b, ptrdiff_t b_stride, T *c, ptrdiff_t c_stride, const T *rescale, T *maximum, const char *next,
    ptrdiff_t next_pitch, NAME(addend) *addend, const T *ready, const bool continues) {
  V sum[16][PRODUCT_PANEL];
  if (continues)
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = NAME(load)(c + i * c_stride + v * LANES);
  else
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int v = 0; v < vectors; v++) sum[i][v] = (V){};
#ifdef BLOCK_IN_ASSEMBLY
  if (vectors > 1 && rows == ROWS(vectors)) {
    NAME(multiply_block)(vectors, sum, depth, a, row_stride, column_stride, b, b_stride);
  } else
#endif
  {
    const bool is_by_rows = column_stride == 1;
    const attn_strides step = attn_strides_of(b_stride * (ptrdiff_t)sizeof(T));
    const attn_strides far = attn_strides_of((is_by_rows ? row_stride : column_stride) * (ptrdiff_t)sizeof(T));
    const attn_strides near = {sizeof(T), 3 * sizeof(T), 5 * sizeof(T), 7 * sizeof(T)};
    const attn_strides row = is_by_rows ? far : near, column = is_by_rows ? near : far;
    const char *first = (const char *)a, *second = rows > 8 ? first + 8 * row.one : first, *lane = (const char *)b;
    const bool is_ahead = PREFETCHES(rows, vectors);
    // Not past the end of a short product, whose next lines are somebody else's.
    const char *a_ahead = first + (depth > A_STEPS_AHEAD ? A_STEPS_AHEAD * column.one : 0), *b_ahead = lane + B_STEPS_AHEAD * step.one;
#define STEP(k)                                                                                                         \
  if (is_ahead) {                                                                                                       \
    if (!is_by_rows) __builtin_prefetch(a_ahead + attn_times(column, k));                                               \
    UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(b_ahead + attn_times(step, k) + v * (int)sizeof(V));    \
  }                                                                                                                     \
  NAME(multiply_step)(rows, vectors, sum, first + attn_times(column, k), second + attn_times(column, k), row,           \
                      lane + attn_times(step, k));
#define ADVANCE(k)                                                                                                      \
  depth -= k, first += k * column.one, second += k * column.one, lane += k * step.one, a_ahead += k * column.one,       \
      b_ahead += k * step.one
    // A panel by itself is scratch, and near.
    if (is_ahead && c_stride != vectors * LANES)
      UNROLL for (int i = 0; i < rows; i++)
        UNROLL for (int v = 0; v < vectors; v++) __builtin_prefetch(c + i * c_stride + v * LANES, 1);
    for (; depth >= 4; ADVANCE(4)) {
      if (is_ahead && is_by_rows) {
        __builtin_prefetch(next, 0, 2);
        // AMD's CPUs fetch no pairs by themselves.
        __builtin_prefetch(next + 64, 0, 2);
        next += next_pitch;
      }
      if (addend && addend->row < addend->end) NAME(take_step)(addend);
      STEP(0) STEP(1) STEP(2) STEP(3)
    }
    for (; depth > 0; ADVANCE(1)) { STEP(0) }
#undef STEP
#undef ADVANCE
  }
  if (addend) NAME(add_ready)(rows, vectors, sum, ready);
  // While they are in registers: a pass less for the softmax.
  if (maximum)
    UNROLL for (int v = 0; v < vectors; v++) {
      V most = NAME(load)(maximum + v * LANES);
      UNROLL for (int i = 0; i < rows; i++) most = NAME(max)(sum[i][v], most);
      NAME(store)(maximum + v * LANES, most);
    }
  // What was there is added last: a sum that starts anew with each tile has the smaller rounding errors.
  UNROLL for (int i = 0; i < rows; i++)
    UNROLL for (int v = 0; v < vectors; v++) {
      T *target = c + i * c_stride + v * LANES;
      if (rescale) sum[i][v] = FMA(NAME(load)(target), NAME(load)(rescale + v * LANES), sum[i][v]);
      NAME(store)(target, sum[i][v]);
    }
}

// Out of the way of the products, whose loops it would take registers from.
static __attribute__((noinline)) void NAME(prefetch)(
    const attn_ahead next[2], ptrdiff_t first, ptrdiff_t end, ptrdiff_t row_count) {
  for (int i = 0; i < 2; i++)
    if (next[i].base) attn_prefetch_rows(next + i, first, end, row_count);
}

static inline INLINE void NAME(multiply_panel)(
    const int vectors, const attn_product *p, ptrdiff_t row_stride, ptrdiff_t column_stride, NAME(addend) *addend) {
  // Not read again for every block.
  const ptrdiff_t row_count = p->row_count, depth = p->depth, b_stride = p->b_stride, c_stride = p->c_stride;
  const T *a = p->a, *b = p->b, *rescale = p->rescale;
  T *c = p->c, *maximum = p->maximum;
  const bool is_finished = p->bias || p->activation != attn_activation_none, continues = p->continues;
  // The last of what is wanted next is spread, if it can be.
  attn_ahead next[2] = {p->next[0], p->next[1]};
  attn_spread spread = {0};
  if (PREFETCHES(ROWS(vectors), vectors) && column_stride == 1)
    spread = attn_spread_rows(next + (next[1].base != NULL), row_count / ROWS(vectors), depth / 4);
  const bool has_rows = next[0].base || next[1].base;
  if (addend) NAME(start_addend)(addend, vectors, row_count, p->addend);
  ptrdiff_t i = 0;
#define STEP(rows)                                                                                        \
  for (; i + (rows) <= row_count; i += (rows), a += (rows) * row_stride, c += (rows) * c_stride) {        \
    ptrdiff_t pitch;                                                                                      \
    const char *line = attn_take_row(&spread, b, &pitch);                                                 \
    const T *ready = addend ? NAME(ready_rows)(addend, i, i + (rows)) : NULL;                             \
    NAME(multiply_rows)(                                                                                  \
        rows, vectors, depth, a, row_stride, column_stride, b, b_stride, c, c_stride, rescale, maximum,   \
        line, pitch, addend, ready, continues);                                                           \
    /* While it is in the first-level cache. */                                                           \
    if (is_finished) NAME(finish)(p->activation, rows, vectors * LANES, c, c_stride, p->bias);            \
    if (has_rows) NAME(prefetch)(next, i, i + (rows), row_count);                                         \
  }
  STEP(ROWS(vectors))
  STEP(4)
  STEP(1)
#undef STEP
}

static void NAME(multiply_plain)(const attn_product *p) {
  // One of a's strides is 1: told to the compiler, which then needs no register for it.
#define CASE(vectors)                                                                                  \
  case vectors:                                                                                        \
    if (p->column_stride == 1) return NAME(multiply_panel)(vectors, p, p->row_stride, 1, NULL);        \
    return NAME(multiply_panel)(vectors, p, 1, p->column_stride, NULL);
  switch (p->vector_count) {
    CASE(1)
    CASE(2)
#if PANEL > 2
    CASE(3)
#endif
#if PRODUCT_PANEL > 3
    CASE(4)
#endif
  }
#undef CASE
}

// By itself, for it wants a larger stack and other registers.
static __attribute__((noinline)) void NAME(multiply_with_addend)(const attn_product *p) {
#ifdef ADDEND_BESIDE_PRODUCT
  if (p->column_stride == 1) {
    NAME(addend) addend;
    switch (p->vector_count) {
      case 1: return NAME(multiply_panel)(1, p, p->row_stride, 1, &addend);
      case 2: return NAME(multiply_panel)(2, p, p->row_stride, 1, &addend);
      case 3: return NAME(multiply_panel)(3, p, p->row_stride, 1, &addend);
    }
  }
#endif
  attn_product product = *p;
  product.addend = NULL;
  product.maximum = NULL;
  NAME(multiply_plain)(&product);
  const attn_pack sum = {
      p->vector_count * LANES, p->row_count, p->addend, 1, attn_packing_bias, 1, p->c, p->c_stride, p->maximum};
  NAME(pack)(&sum);
}

static void NAME(multiply)(const attn_product *p) {
  if (p->addend) return NAME(multiply_with_addend)(p);
  NAME(multiply_plain)(p);
}

// Scores of some keys become weights e^(score − shift), which are added up.
#ifdef EXP2_POWERS
#define KEYS 1
static inline INLINE void NAME(weigh)(
    const int keys, const int vectors, T *scores, ptrdiff_t stride, const V shift[PANEL], V added[PANEL]) {
  V weight[KEYS * PANEL];
  UNROLL for (int i = 0; i < keys * vectors; i++)
    weight[i] = NAME(load)(scores + i / vectors * stride + i % vectors * LANES) - shift[i % vectors];
  NAME(exp2_all)(keys * vectors, weight, LOG2_E, EXP_LOWEST, weight);
  UNROLL for (int i = 0; i < keys * vectors; i++) {
    NAME(store)(scores + i / vectors * stride + i % vectors * LANES, weight[i]);
    added[i % vectors] += weight[i];
  }
}
#else
// Side by side, for one exponential waits for some ten results in turn: two keys at a time take 0.7 of the time. Their
// scales wait in the scores' place, because the registers are full of remainders and polynomials.
#define KEYS 2
static inline INLINE void NAME(weigh)(
    const int keys, const int vectors, T *scores, ptrdiff_t stride, const V shift[PANEL], V added[PANEL]) {
  V r[KEYS * PANEL], p[KEYS * PANEL];
  UNROLL for (int i = 0; i < keys * vectors; i++) {
    T *at = scores + i / vectors * stride + i % vectors * LANES;
    NAME(store)(at, NAME(exp2_split)(
        NAME(load)(at) - shift[i % vectors], LOG2_E, EXP_LOWEST, r + i));
  }
  // The compiler is not to keep them.
  __asm__ volatile("" : : : "memory");
  NAME(exp2_join)(keys * vectors, r, p);
  UNROLL for (int i = 0; i < keys * vectors; i++) {
    T *at = scores + i / vectors * stride + i % vectors * LANES;
    V weight = p[i] * NAME(load)(at);
    NAME(store)(at, weight);
    added[i % vectors] += weight;
  }
}
#endif

static inline INLINE void NAME(softmax_panel)(const int vectors, const attn_softmax_lanes *p) {
  const V hidden = (V)(-(T)INFINITY);
  const T *begin = p->begin, *end = p->end;
  T *maximum = p->maximum, *sum = p->sum, *rescale = p->rescale;
  const T *known = p->new_maximum ? p->new_maximum : maximum;
  V most[PANEL];
  UNROLL for (int v = 0; v < vectors; v++) most[v] = NAME(load)(known + v * LANES);
  T *scores = p->scores;
  if (begin) {
    // Where the maximum is known, keys that every lane attends to are passed over.
    const ptrdiff_t common = p->new_maximum ? p->common_end - p->common_begin : 0;
    for (ptrdiff_t key = 0; key < p->key_count; key++, scores += p->stride) {
      if (common && key == p->common_begin) {
        key += common;
        scores += common * p->stride;
        if (key == p->key_count) break;
      }
      V index = (V)(T)key;
      UNROLL for (int v = 0; v < vectors; v++) {
        V score = NAME(load)(scores + v * LANES);
        score = ((index >= NAME(load)(begin + v * LANES)) & (index < NAME(load)(end + v * LANES))) ? score : hidden;
        NAME(store)(scores + v * LANES, score);
        most[v] = NAME(max)(score, most[v]);
      }
    }
  } else if (!p->new_maximum) {
    for (ptrdiff_t key = 0; key < p->key_count; key++, scores += p->stride)
      UNROLL for (int v = 0; v < vectors; v++) most[v] = NAME(max)(NAME(load)(scores + v * LANES), most[v]);
  }
  V added[PANEL], shift[PANEL];
  UNROLL for (int v = 0; v < vectors; v++) {
    V old = NAME(load)(maximum + v * LANES);
    // Hazard: −inf − −inf is NaN. Where nothing is attended yet, weights are 2^(−inf − 0) = 0.
    shift[v] = most[v] == hidden ? (V){} : most[v];
    V factor = old == most[v] ? (V)(T)1 : NAME(exp)(old - shift[v]);
    NAME(store)(rescale + v * LANES, factor);
    NAME(store)(maximum + v * LANES, most[v]);
    NAME(store)(sum + v * LANES, NAME(load)(sum + v * LANES) * factor);
    added[v] = (V){};
  }
  scores = p->scores;
  const ptrdiff_t stride = p->stride;
  ptrdiff_t key = 0;
  for (; key + KEYS <= p->key_count; key += KEYS, scores += KEYS * stride)
    NAME(weigh)(KEYS, vectors, scores, stride, shift, added);
  for (; key < p->key_count; key++, scores += stride) NAME(weigh)(1, vectors, scores, stride, shift, added);
  UNROLL for (int v = 0; v < vectors; v++)
    NAME(store)(sum + v * LANES, NAME(load)(sum + v * LANES) + added[v]);
}

// y = y·rescale + x, as a product that is not cut would have added x.
static void NAME(add_rescaled)(
    ptrdiff_t vector_count, ptrdiff_t row_count, void *results, ptrdiff_t stride, const void *factors, const void *sums,
    ptrdiff_t sum_stride) {
  const T *rescale = factors;
  for (ptrdiff_t row = 0; row < row_count; row++) {
    T *y = (T *)results + row * stride;
    const T *x = (const T *)sums + row * sum_stride;
    for (ptrdiff_t i = 0; i < vector_count * LANES; i += LANES)
      NAME(store)(y + i, FMA(NAME(load)(y + i), NAME(load)(rescale + i), NAME(load)(x + i)));
  }
}

static void NAME(softmax_lanes)(const attn_softmax_lanes *p) {
  switch (p->vector_count) {
    case 1: return NAME(softmax_panel)(1, p);
    case 2: return NAME(softmax_panel)(2, p);
#if PANEL > 2
    case 3: return NAME(softmax_panel)(3, p);
#endif
  }
}
#undef KEYS
