// Rows into lanes and back: only queries, biases, masks and results change their layout. See instantiate.h for the names.

// The first `count` ≤ LANES elements of a row, of bytes as biases 0 and −inf.
static inline INLINE V NAME(load_row)(
    attn_packing packing, const void *row, ptrdiff_t index, ptrdiff_t count, ptrdiff_t stride) {
  if (packing == attn_packing_boolean) {
    const uint8_t *x = (const uint8_t *)row + index * stride;
    B bytes = (B)(uint8_t)1;
    if (count == LANES && stride == 1)
      __builtin_memcpy(&bytes, x, sizeof bytes);
    else
      for (ptrdiff_t i = 0; i < count; i++) bytes[i] = x[i * stride];
    return __builtin_convertvector(bytes, U) != 0 ? (V){} : (V)(-(T)INFINITY);
  }
  const T *x = (const T *)row + index * stride;
  if (stride == 1) return count == LANES ? NAME(load)(x) : NAME(load_tail)(x, count, 0);
  V v = {};
  for (ptrdiff_t i = 0; i < count; i++) v[i] = x[i * stride];
  return v;
}

// A column of rows becomes a vector of y.
static inline INLINE V NAME(pack_column)(attn_packing packing, V x, T factor, T *y) {
  switch (packing) {
    case attn_packing_scaled: x *= factor; break;
    case attn_packing_bias: x = NAME(biased)(NAME(load)(y), x); break;
    case attn_packing_boolean: x = x == 0 ? NAME(load)(y) : x; break;
  }
  NAME(store)(y, x);
  return x;
}

// A part of a square of LANES rows by LANES columns, or one of strided rows. Returns the maxima raised to its own.
static V NAME(pack_part)(
    attn_packing packing, const attn_pack *p, ptrdiff_t row_count, ptrdiff_t column_count, const void *const *rows,
    ptrdiff_t column, T factor, T *y, V most) {
  V x[LANES];
  for (int i = 0; i < LANES; i++)
    // Lanes behind the last row repeat it: as finite as the others, and never written out.
    x[i] = NAME(load_row)(packing, rows[i < row_count ? i : row_count - 1], column, column_count, p->column_stride);
  NAME(transpose)(x);
  for (int i = 0; i < column_count; i++, y += p->stride)
    most = NAME(max)(NAME(pack_column)(packing, x[i], factor, y), most);
  return most;
}

// A whole square: it stays in registers.
static inline INLINE V NAME(pack_square)(
    attn_packing packing, const attn_pack *p, const void *const *rows, ptrdiff_t column, T factor, T *y, V most) {
  V x[LANES];
  UNROLL for (int i = 0; i < LANES; i++) x[i] = NAME(load_row)(packing, rows[i], column, LANES, 1);
  NAME(transpose)(x);
  if (packing == attn_packing_bias) {
    // A sum is what `biased` gives unless it is NaN.
    U is_nan = {};
    UNROLL for (int i = 0; i < LANES; i++) x[i] += NAME(load)(y + i * p->stride);
    // Two with one comparison.
    UNROLL for (int i = 0; i < LANES; i += 2) is_nan |= (U)((x[i] != x[i]) | (x[i + 1] != x[i + 1]));
    if (__builtin_reduce_or(is_nan)) return NAME(pack_part)(packing, p, LANES, LANES, rows, column, factor, y, most);
    UNROLL for (int i = 0; i < LANES; i++) {
      NAME(store)(y + i * p->stride, x[i]);
      most = NAME(max)(x[i], most);
    }
    return most;
  }
  UNROLL for (int i = 0; i < LANES; i++)
    most = NAME(max)(NAME(pack_column)(packing, x[i], factor, y + i * p->stride), most);
  return most;
}

#ifdef HIDE
// Squares of a boolean mask as bits, those of a row together, which are transposed in being looked at: 0.97 of a call. All of
// them before the first is, for a vector that is read right behind the numbers it is made of waits until these have left for
// the cache.
static ptrdiff_t NAME(hide_squares)(
    const attn_pack *p, const void *const *rows, ptrdiff_t column, T *y, V *maximum) {
  enum { most_squares = 32 };
  uint16_t bits[most_squares][LANES];
  const ptrdiff_t whole = (p->column_count - column) / LANES, count = whole < most_squares ? whole : most_squares;
  for (ptrdiff_t square = 0; square < count; square++)
    UNROLL for (int i = 0; i < LANES; i++)
      bits[square][i] = ZERO_BYTES((const uint8_t *)rows[i] + column + square * LANES);
  V most = *maximum;
  for (ptrdiff_t square = 0; square < count; square++)
    UNROLL for (int i = 0; i < LANES; i++, y += p->stride) {
      V x = HIDE(NAME(load)(y), bits[square], 1 << i);
      NAME(store)(y, x);
      most = NAME(max)(x, most);
    }
  *maximum = most;
  return count * LANES;
}
#endif

static inline INLINE void NAME(pack_rows)(attn_packing packing, const attn_pack *arguments) {
  // A copy is not read again after every store.
  const attn_pack copy = *arguments, *p = &copy;
  const T factor = (T)p->factor;
  for (ptrdiff_t row = 0; row < p->row_count; row += LANES) {
    const ptrdiff_t row_count = p->row_count - row;
    const void *const *rows = p->rows + row;
    ptrdiff_t column = 0;
    T *y = (T *)p->y + row, *maximum = p->maximum ? (T *)p->maximum + row : NULL;
    V most = maximum ? NAME(load)(maximum) : (V){};
    const bool is_square = row_count >= LANES && p->column_stride == 1;
#ifdef HIDE
    if (packing == attn_packing_boolean && is_square)
      while (column + LANES <= p->column_count)
        column += NAME(hide_squares)(p, rows, column, y + column * p->stride, &most);
#endif
    if (is_square)
      for (; column + LANES <= p->column_count; column += LANES) {
        // Not masks: in the first level they drive each other out, and most were prefetched beside the product before.
        if (packing == attn_packing_scaled && row_count >= 2 * LANES && column * sizeof(T) % 64 == 0)
          UNROLL for (int i = 0; i < LANES; i++) __builtin_prefetch((const T *)rows[LANES + i] + column);
        most = NAME(pack_square)(packing, p, rows, column, factor, y + column * p->stride, most);
      }
    for (; column < p->column_count; column += LANES) {
      ptrdiff_t count = p->column_count - column < LANES ? p->column_count - column : LANES;
      most = NAME(pack_part)(packing, p, row_count, count, rows, column, factor, y + column * p->stride, most);
    }
    if (maximum) NAME(store)(maximum, most);
  }
}

static void NAME(pack)(const attn_pack *p) {
  // Told to the compiler, which then makes a loop of each.
  switch (p->packing) {
    case attn_packing_scaled: return NAME(pack_rows)(attn_packing_scaled, p);
    case attn_packing_bias: return NAME(pack_rows)(attn_packing_bias, p);
    case attn_packing_boolean: return NAME(pack_rows)(attn_packing_boolean, p);
  }
}

static inline INLINE void NAME(unpack_square)(
    const attn_unpack *p, const T *x, V factor, void *const *rows, ptrdiff_t column) {
  V y[LANES];
  UNROLL for (int i = 0; i < LANES; i++) y[i] = NAME(load)(x + i * p->stride) * factor;
  NAME(transpose)(y);
  UNROLL for (int i = 0; i < LANES; i++) NAME(store)((T *)rows[i] + column, y[i]);
}

static inline INLINE void NAME(unpack_part)(
    const attn_unpack *p, ptrdiff_t row_count, ptrdiff_t column_count, const T *x, V factor, void *const *rows,
    ptrdiff_t column) {
  V y[LANES];
  for (int i = 0; i < LANES; i++)
    y[i] = NAME(load)(x + (i < column_count ? i : column_count - 1) * p->stride) * factor;
  NAME(transpose)(y);
  for (int i = 0; i < row_count; i++) {
    T *target = (T *)rows[i] + column * p->column_stride;
    if (p->column_stride != 1)
      for (ptrdiff_t j = 0; j < column_count; j++) target[j * p->column_stride] = y[i][j];
    else if (column_count == LANES)
      NAME(store)(target, y[i]);
    else
      NAME(store_tail)(target, column_count, y[i]);
  }
}

static void NAME(unpack)(const attn_unpack *p) {
  for (ptrdiff_t row = 0; row < p->row_count; row += LANES) {
    const ptrdiff_t row_count = p->row_count - row < LANES ? p->row_count - row : LANES;
    const V factor = NAME(load)((const T *)p->factor + row);
    const T *x = (const T *)p->x + row;
    void *const *rows = p->rows + row;
    ptrdiff_t column = 0;
    if (row_count == LANES && p->column_stride == 1)
      for (; column + LANES <= p->column_count; column += LANES) {
        if (p->row_count - row >= 2 * LANES && column * sizeof(T) % 64 == 0)
          UNROLL for (int i = 0; i < LANES; i++) __builtin_prefetch((const T *)rows[LANES + i] + column, 1);
        NAME(unpack_square)(p, x + column * p->stride, factor, rows, column);
      }
    for (; column < p->column_count; column += LANES) {
      ptrdiff_t count = p->column_count - column < LANES ? p->column_count - column : LANES;
      NAME(unpack_part)(p, row_count, count, x + column * p->stride, factor, rows, column);
    }
  }
}
