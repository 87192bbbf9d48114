// Products of a few rows of queries, as in decoding: lanes run along E and Ev, each key and value is read
// once from memory. See instantiate.h for the names.

// Bytes of keys, or values, ahead that are on their way to a cache while these are multiplied. Memory gives most to one
// stream from front to back: 1.6 times what it gives to 16 keys side by side. With AVX-512 on Zen 5 they are fetched into
// the first level: 0.9 of what four times the distance and the second level took, which is better on Zen 3
// (Benchmarks/NOTES.md).
#if ACCUMULATORS < 24
#define AHEAD_BYTES 32768
#define PREFETCH(x) __builtin_prefetch(x, 0, 2)
#else
#define AHEAD_BYTES 8192
#define PREFETCH(x) __builtin_prefetch(x, 0, 3)
#endif

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

// Keys to what is to be prefetched.
static inline INLINE ptrdiff_t NAME(keys_ahead)(const attn_stored stored, const attn_row_product *p) {
  return AHEAD_BYTES / (p->width * NAME(stored_bytes)(stored) + 1) + 1;
}

// What is to be prefetched beside a key or value; the last ones' may lie elsewhere, on the next page.
static inline INLINE const char *NAME(ahead)(
    const attn_stored stored, const attn_row_product *p, ptrdiff_t key, ptrdiff_t distance) {
  const char *base = p->key;
  key += distance;
  if (p->next && key >= p->key_count) {
    base = p->next;
    key -= p->key_count;
  }
  return base + key * p->key_stride * NAME(stored_bytes)(stored);
}

// Keys that are multiplied side by side, so that a q is loaded once for them, and sums do not wait for one another.
#define SIDE(rows) (ACCUMULATORS >= 24 && LANES >= 4 ? 4 : (rows) == 4 ? 2 : 1)
_Static_assert(LANES % SIDE(4) == 0 && LANES % SIDE(1) == 0, "a block of LANES keys is whole groups of them");

// scores[rows, LANES] = factor · q[rows, width]·k[LANES, width]ᵀ, of which `count` are wanted.
static inline INLINE void NAME(dot_block)(
    const attn_stored stored, const int rows, const attn_row_product *p, ptrdiff_t row, ptrdiff_t key,
    ptrdiff_t count, ptrdiff_t distance) {
  const T *q = (const T *)p->rows + row * p->row_stride;
  const ptrdiff_t bytes = NAME(stored_bytes)(stored);
  enum { most = 4 };
  const int side = SIDE(rows);
  V sum[4][LANES];
  for (int i = 0; i < LANES; i += side) {
    const char *k[most], *const ahead = NAME(ahead)(stored, p, key + i, distance);
    V part[4][most];
    UNROLL for (int j = 0; j < side; j++) {
      k[j] = (const char *)p->key + (key + (i + j < count ? i + j : count - 1)) * p->key_stride * bytes;
      UNROLL for (int r = 0; r < rows; r++) part[r][j] = (V){};
    }
    ptrdiff_t e = 0;
    for (; e + LANES <= p->width; e += LANES) {
      V x[most];
      UNROLL for (int j = 0; j < side; j++) {
        // From front to back, also where two keys go side by side.
        if (row == 0 && e * bytes % 64 == 0) PREFETCH(ahead + side * e * bytes + j * 64);
        x[j] = NAME(load_stored)(stored, k[j], e);
      }
      UNROLL for (int r = 0; r < rows; r++) {
        V y = NAME(load)(q + r * p->row_stride + e);
        UNROLL for (int j = 0; j < side; j++) part[r][j] = FMA(x[j], y, part[r][j]);
      }
    }
    if (e < p->width)
      UNROLL for (int j = 0; j < side; j++) {
        V x = NAME(load_stored_tail)(stored, k[j], e, p->width - e);
        UNROLL for (int r = 0; r < rows; r++)
          part[r][j] = FMA(x, NAME(load_tail)(q + r * p->row_stride + e, p->width - e, 0), part[r][j]);
      }
    if (rows * side == LANES) {
      // The sums of these keys fill a vector: none waits in memory for those of others.
      T scores[LANES];
      UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int j = 0; j < side; j++) sum[0][r * side + j] = part[r][j];
      NAME(store)(scores, NAME(sums)(sum[0]) * (T)p->factor);
      T *target = (T *)p->scores + row * p->score_stride + key + i;
      for (int r = 0; r < rows; r++, target += p->score_stride)
        if (i + side <= count)
          __builtin_memcpy(target, scores + r * side, side * sizeof(T));
        else
          for (int j = 0; i + j < count; j++) target[j] = scores[r * side + j];
    } else
      UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int j = 0; j < side; j++) sum[r][i + j] = part[r][j];
  }
  if (rows * side == LANES) return;
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
  const ptrdiff_t distance = NAME(keys_ahead)(stored, p);
  for (ptrdiff_t key = 0; key < p->key_count; key += LANES) {
    ptrdiff_t row = 0;
    for (; row + 4 <= p->row_count; row += 4) NAME(dot_block)(stored, 4, p, row, key, p->key_count - key, distance);
    for (; row + 2 <= p->row_count; row += 2) NAME(dot_block)(stored, 2, p, row, key, p->key_count - key, distance);
    if (row < p->row_count) NAME(dot_block)(stored, 1, p, row, key, p->key_count - key, distance);
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

// Vectors of columns that are summed at once for some rows: what fills the registers. Two rows by 4 vectors with AVX2, twice
// over for four rows, took 1.45 of the time.
#define WIDE(rows) ((rows) == 1 ? 8 : (ACCUMULATORS < 24 ? 12 : 16) / (rows))
// Keys whose weighted values are one sum, and whose values stay in the first-level cache from the first rows to the last.
#define NEAR 32

// result[rows, columns] += weights[rows, keys]·value[keys, columns] for up to `vectors` vectors of columns,
// the last of which holds `tail` elements. What lies `ahead` is prefetched by the first rows, for each
// key `ahead_stride` bytes further on.
static inline INLINE void NAME(accumulate_block)(
    const attn_stored stored, const int rows, const int vectors, ptrdiff_t tail, ptrdiff_t key_count, const T *weights,
    ptrdiff_t weight_stride, const char *value, ptrdiff_t value_stride, T *result, ptrdiff_t result_stride,
    bool first, const char *ahead, ptrdiff_t ahead_stride) {
  const ptrdiff_t bytes = NAME(stored_bytes)(stored);
  V sum[4][8];
  UNROLL for (int r = 0; r < rows; r++)
    UNROLL for (int v = 0; v < vectors; v++) sum[r][v] = (V){};
  for (ptrdiff_t key = 0; key < key_count; key++, value += value_stride * bytes, ahead += ahead_stride) {
    V weight[4];
    UNROLL for (int r = 0; r < rows; r++) weight[r] = (V)weights[r * weight_stride + key];
    UNROLL for (int v = 0; v < vectors; v++) {
      if (first && v * LANES * bytes % 64 == 0) PREFETCH(ahead + v * LANES * bytes);
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

// The same for all columns of some rows and the `count` keys from `key` on.
static inline INLINE void NAME(accumulate_columns)(
    const attn_stored stored, const int rows, const attn_row_product *p, ptrdiff_t row, ptrdiff_t key, ptrdiff_t count) {
  const ptrdiff_t bytes = NAME(stored_bytes)(stored), stride = p->key_stride * bytes;
  const char *value = (const char *)p->key + key * stride;
  const char *const ahead = NAME(ahead)(stored, p, key, NAME(keys_ahead)(stored, p));
  const T *weights = (const T *)p->scores + row * p->score_stride + key;
  T *result = (T *)p->rows + row * p->row_stride;
  // Where values are contiguous, memory is prefetched from front to back, although columns are taken in several passes: 1.3
  // times the rate.
  const bool is_contiguous = p->key_stride == p->width;
  ptrdiff_t column = 0;
#define BLOCK(vectors, tail)                                                                         \
  NAME(accumulate_block)(                                                                            \
      stored, rows, vectors, tail, count, weights, p->score_stride, value + column * bytes, p->key_stride, \
      result + column, p->row_stride,                                                                \
      row == 0, ahead + (is_contiguous ? count : 1) * column * bytes,                                \
      is_contiguous ? vectors * LANES * bytes : stride)
#define STEP(vectors) \
  for (; column + (vectors) * LANES <= p->width; column += (vectors) * LANES) BLOCK(vectors, LANES);
  STEP(WIDE(rows))
  STEP(2)
  STEP(1)
  if (column < p->width) BLOCK(1, p->width - column);
#undef STEP
#undef BLOCK
}

static inline INLINE void NAME(accumulate_stored_rows)(const attn_stored stored, const attn_row_product *p) {
  // The first sum is as much shorter as keys are missing before it, so that the others begin where they always do.
  ptrdiff_t length = NEAR - (ptrdiff_t)((size_t)p->first_index % NEAR);
  for (ptrdiff_t key = 0; key < p->key_count; key += length, length = NEAR) {
    const ptrdiff_t count = p->key_count - key < length ? p->key_count - key : length;
    ptrdiff_t row = 0;
    for (; row + 4 <= p->row_count; row += 4) NAME(accumulate_columns)(stored, 4, p, row, key, count);
    for (; row + 2 <= p->row_count; row += 2) NAME(accumulate_columns)(stored, 2, p, row, key, count);
    if (row < p->row_count) NAME(accumulate_columns)(stored, 1, p, row, key, count);
  }
}

// result[row_count, width] += weights[row_count, key_count]·value[key_count, width].
static void NAME(accumulate_rows)(const attn_row_product *p) { BY_STORED(NAME(accumulate_stored_rows), p) }

#undef BY_STORED
#undef SIDE
#undef WIDE
#undef NEAR
#undef AHEAD_BYTES
#undef PREFETCH
