// Products of a few rows of queries, as in decoding: lanes run along E and Ev, each key and value is read
// once from memory. See instantiate.h for the names.

// Keys, or values, ahead that are on their way to the second-level cache while these are multiplied. Memory gives
// most to one stream from front to back: 1.6 times what it gives to 16 keys side by side; and the first level has
// too few places for what is under way: 1.3 times with four rows (Benchmarks/NOTES.md).
#define AHEAD 64
#define PREFETCH(x) __builtin_prefetch(x, 0, 2)

// Bytes of a key's or value's element.
static inline INLINE ptrdiff_t NAME(stored_bytes)(const attn_stored stored) {
  return stored == attn_stored_native ? (ptrdiff_t)sizeof(T) : 2;
}

// LANES elements from `index` on, as they are stored.
static inline INLINE V NAME(load_stored)(const attn_stored stored, const char *x, ptrdiff_t index) {
#ifdef HALF_BITS
  if (stored != attn_stored_native) {
    HALF_BITS bits;
    __builtin_memcpy(&bits, (const uint16_t *)x + index, sizeof bits);
    return NAME(widened)(stored == attn_stored_brain ? attn_half_brain : attn_half_ieee, bits);
  }
#else
  (void)stored;
#endif
  return NAME(load)((const T *)x + index);
}

// The first `count` < LANES of them; the rest are 0.
static inline INLINE V NAME(load_stored_tail)(const attn_stored stored, const char *x, ptrdiff_t index, ptrdiff_t count) {
#ifdef HALF_BITS
  if (stored != attn_stored_native) {
    HALF_BITS bits = (HALF_BITS)(uint16_t)0;
    for (int j = 0; j < count; j++) bits[j] = ((const uint16_t *)x)[index + j];
    return NAME(widened)(stored == attn_stored_brain ? attn_half_brain : attn_half_ieee, bits);
  }
#else
  (void)stored;
#endif
  return NAME(load_tail)((const T *)x + index, count, 0);
}

// scores[rows, LANES] = factor · q[rows, width]·k[LANES, width]ᵀ, of which `count` are wanted.
static inline INLINE void NAME(dot_block)(
    const attn_stored stored, const int rows, const attn_row_product *p, ptrdiff_t row, ptrdiff_t key,
    ptrdiff_t count) {
  const T *q = (const T *)p->rows + row * p->row_stride;
  const ptrdiff_t bytes = NAME(stored_bytes)(stored);
  V sum[4][LANES];
  for (int i = 0; i < LANES; i++) {
    const char *k = (const char *)p->key + (key + (i < count ? i : count - 1)) * p->key_stride * bytes;
    V part[4];
    UNROLL for (int r = 0; r < rows; r++) part[r] = (V){};
    ptrdiff_t e = 0;
    for (; e + LANES <= p->width; e += LANES) {
      if (row == 0 && e * bytes % 64 == 0) PREFETCH(k + (e + AHEAD * p->key_stride) * bytes);
      V x = NAME(load_stored)(stored, k, e);
      UNROLL for (int r = 0; r < rows; r++) part[r] = FMA(x, NAME(load)(q + r * p->row_stride + e), part[r]);
    }
    if (e < p->width) {
      V x = NAME(load_stored_tail)(stored, k, e, p->width - e);
      UNROLL for (int r = 0; r < rows; r++)
        part[r] = FMA(x, NAME(load_tail)(q + r * p->row_stride + e, p->width - e, 0), part[r]);
    }
    UNROLL for (int r = 0; r < rows; r++) sum[r][i] = part[r];
  }
  UNROLL for (int r = 0; r < rows; r++) {
    V scores = NAME(sums)(sum[r]) * (T)p->factor;
    T *target = (T *)p->scores + (row + r) * p->score_stride + key;
    if (count >= LANES)
      NAME(store)(target, scores);
    else
      NAME(store_tail)(target, count, scores);
  }
}

static inline INLINE void NAME(dot_stored_rows)(const attn_stored stored, const attn_row_product *p) {
  for (ptrdiff_t key = 0; key < p->key_count; key += LANES) {
    ptrdiff_t row = 0;
    for (; row + 4 <= p->row_count; row += 4) NAME(dot_block)(stored, 4, p, row, key, p->key_count - key);
    for (; row + 2 <= p->row_count; row += 2) NAME(dot_block)(stored, 2, p, row, key, p->key_count - key);
    if (row < p->row_count) NAME(dot_block)(stored, 1, p, row, key, p->key_count - key);
  }
}

// Told to the compiler, which then makes a function of each.
#ifdef HALF_BITS
#define BY_STORED(f, p)                                             \
  switch ((p)->stored) {                                            \
    case attn_stored_ieee: return f(attn_stored_ieee, p);           \
    case attn_stored_brain: return f(attn_stored_brain, p);         \
    case attn_stored_native: return f(attn_stored_native, p);       \
  }
#else
#define BY_STORED(f, p) f(attn_stored_native, p);
#endif

// scores[row_count, key_count] = factor · q[row_count, width]·k[key_count, width]ᵀ.
static void NAME(dot_rows)(const attn_row_product *p) { BY_STORED(NAME(dot_stored_rows), p) }

// Columns that are summed at once, in vectors.
#define WIDE (ACCUMULATORS >= 24 ? 8 : 4)
// Keys whose values stay in the first-level cache from one pair of rows to the next.
#define NEAR 32

// result[rows, columns] += weights[rows, keys]·value[keys, columns] for up to `vectors` vectors of columns,
// the last of which holds `tail` elements.
static inline INLINE void NAME(accumulate_block)(
    const attn_stored stored, const int rows, const int vectors, ptrdiff_t tail, ptrdiff_t key_count, const T *weights, ptrdiff_t weight_stride,
    const char *value, ptrdiff_t value_stride, T *result, ptrdiff_t result_stride, bool first) {
  const ptrdiff_t bytes = NAME(stored_bytes)(stored);
  V sum[2][WIDE];
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = (V){};
  for (ptrdiff_t key = 0; key < key_count; key++, value += value_stride * bytes) {
    V weight[2];
    UNROLL for (int r = 0; r < rows; r++) weight[r] = (V)weights[r * weight_stride + key];
    UNROLL for (int v = 0; v < vectors; v++) {
      if (first && v * LANES * bytes % 64 == 0) PREFETCH(value + (v * LANES + AHEAD * value_stride) * bytes);
      V y = v == vectors - 1 && tail < LANES ? NAME(load_stored_tail)(stored, value, v * LANES, tail)
                                             : NAME(load_stored)(stored, value, v * LANES);
      UNROLL for (int r = 0; r < rows; r++) sum[r][v] = FMA(weight[r], y, sum[r][v]);
    }
  }
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int v = 0; v < vectors; v++) {
      // What was there is added last: a sum that starts anew has the smaller rounding errors.
      T *x = result + r * result_stride + v * LANES;
      if (v == vectors - 1 && tail < LANES)
        NAME(store_tail)(x, tail, NAME(load_tail)(x, tail, 0) + sum[r][v]);
      else
        NAME(store)(x, NAME(load)(x) + sum[r][v]);
    }
}

static inline INLINE void NAME(accumulate_stored_rows)(const attn_stored stored, const attn_row_product *p) {
  const ptrdiff_t bytes = NAME(stored_bytes)(stored);
  for (ptrdiff_t key = 0; key < p->key_count; key += NEAR) {
    ptrdiff_t count = p->key_count - key < NEAR ? p->key_count - key : NEAR;
    const char *value = (const char *)p->key + key * p->key_stride * bytes;
    for (ptrdiff_t row = 0; row < p->row_count;) {
      ptrdiff_t rows = p->row_count - row < 2 ? 1 : 2;
      const T *weights = (const T *)p->scores + row * p->score_stride + key;
      T *result = (T *)p->rows + row * p->row_stride;
      ptrdiff_t column = 0;
#define BLOCK(rows, vectors, tail)                                                                   \
  NAME(accumulate_block)(                                                                            \
      stored, rows, vectors, tail, count, weights, p->score_stride, value + column * bytes, p->key_stride, result + column, \
      p->row_stride, row == 0)
#define STEP(vectors)                                                                                \
  for (; column + (vectors) * LANES <= p->width; column += (vectors) * LANES)                        \
    if (rows == 2) BLOCK(2, vectors, LANES);                                                         \
    else BLOCK(1, vectors, LANES);
      STEP(WIDE)
      STEP(2)
      STEP(1)
      if (column < p->width) {
        if (rows == 2) BLOCK(2, 1, p->width - column);
        else BLOCK(1, 1, p->width - column);
      }
#undef STEP
#undef BLOCK
      row += rows;
    }
  }
}

// result[row_count, width] += weights[row_count, key_count]·value[key_count, width].
static void NAME(accumulate_rows)(const attn_row_product *p) { BY_STORED(NAME(accumulate_stored_rows), p) }

#undef BY_STORED
#undef WIDE
#undef NEAR
#undef AHEAD
#undef PREFETCH
