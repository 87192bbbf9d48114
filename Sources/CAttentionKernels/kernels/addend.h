// What is added to each lane of a panel's product, on its way from rows into lanes. See instantiate.h for the names.
//
// Rows are transposed four vectors at a time beside the steps of the product: shuffles, and lines on their way from the
// second-level cache, find room between its multiplications. A pass of their own would read and write all scores again.

#ifdef ADDEND_BESIDE_PRODUCT
_Static_assert(SQUARES == 4, "vectors of four times 16 bytes are expected; elsewhere nothing of this is used");
#endif

// Rows of the product that are made ready at most, before they are added: whole squares and whole blocks, so that neither
// goes round the end.
#define ADDEND_ROWS 48

typedef struct NAME(addend) {
  const void *const *first; // a row for each lane
  ptrdiff_t vector_count, row_count;
  // The next step: of the square of LANES rows of the product, from `row` on, by a vector of lanes; what it reads and where
  // it leaves results.
  ptrdiff_t row, vector, step;
  const void *const *source;
  T *target;
  // From this row on there is no place yet, or no whole square.
  ptrdiff_t end;
  // LANES rows, transposed within 16 bytes.
  T part[LANES][LANES] __attribute__((aligned(64)));
  T ready[ADDEND_ROWS][PANEL * LANES] __attribute__((aligned(64)));
} NAME(addend);

static inline T *NAME(ready_row)(NAME(addend) *p, ptrdiff_t row) { return p->ready[(size_t)row % ADDEND_ROWS]; }

static inline void NAME(start_addend)(
    NAME(addend) *p, ptrdiff_t vector_count, ptrdiff_t row_count, const void *const *rows) {
  p->first = p->source = rows;
  p->vector_count = vector_count;
  p->row_count = row_count;
  p->row = p->vector = p->step = p->end = 0;
  p->target = p->ready[0];
}

// One of a square's steps: four rows of it are transposed within 16 bytes, or then the 16 bytes of four.
static inline INLINE void NAME(take_step)(NAME(addend) *p) {
  enum { first_steps = LANES / 4, steps = first_steps + PER };
  const ptrdiff_t step = p->step;
  p->step = step + 1;
  V x[4];
  if (step < first_steps) {
    const void *const *source = p->source;
    const ptrdiff_t row = p->row;
    UNROLL for (int i = 0; i < 4; i++) x[i] = NAME(load)((const T *)source[i] + row);
    UNROLL for (int i = 0; i < 4; i += PER) NAME(transpose_within)(x + i);
    UNROLL for (int i = 0; i < 4; i++) NAME(store)(p->part[4 * step + i], x[i]);
    p->source = source + 4;
    return;
  }
  UNROLL for (int i = 0; i < 4; i++) x[i] = NAME(load)(p->part[i * PER + step - first_steps]);
  NAME(transpose_between)(x, 1);
  T *target = p->target;
  UNROLL for (int i = 0; i < 4; i++) NAME(store)(target + i * PER * PANEL * LANES, x[i]);
  p->target = target + PANEL * LANES;
  if (step + 1 < steps) return;
  p->step = 0;
  if (++p->vector == p->vector_count) {
    p->vector = 0;
    p->row += LANES;
    p->source = p->first;
  }
  p->target = NAME(ready_row)(p, p->row) + p->vector * LANES;
}

// Rows behind the last whole square.
static inline void NAME(take_rest)(NAME(addend) *p) {
  attn_pack rest = {.column_stride = 1, .stride = PANEL * LANES};
  for (ptrdiff_t vector = 0; vector < p->vector_count; vector++)
    NAME(pack_part)(
        attn_packing_scaled, &rest, LANES, p->row_count - p->row, p->first + vector * LANES, p->row, 1,
        NAME(ready_row)(p, p->row) + vector * LANES, (V){});
  p->row += LANES;
}

// What of it the steps of the product so far have left.
static __attribute__((noinline)) void NAME(take_rows)(NAME(addend) *p, ptrdiff_t end) {
  while (p->row < end) {
    if (p->row + LANES <= p->row_count)
      NAME(take_step)(p);
    else
      NAME(take_rest)(p);
  }
}

// Makes sure of some rows of the product, before which no others are wanted any more.
static inline INLINE T *NAME(ready_rows)(NAME(addend) *p, ptrdiff_t first, ptrdiff_t end) {
  if (p->row < end) NAME(take_rows)(p, end);
  const ptrdiff_t last = first + ADDEND_ROWS < p->row_count ? first + ADDEND_ROWS : p->row_count;
  p->end = last - LANES + 1;
  return NAME(ready_row)(p, first);
}

// sum += what is ready, as `biased`.
static inline INLINE void NAME(add_ready)(const int rows, const int vectors, V sum[][PRODUCT_PANEL], const T *ready) {
  // Only where a score is not finite may a sum not be what `biased` gives. Scores are added up to find one: infinities and
  // NaN stay in the total. One that merely overflows costs time, no more.
  V total[PANEL];
  UNROLL for (int v = 0; v < vectors; v++) total[v] = sum[0][v];
  UNROLL for (int i = 1; i < rows; i++)
    UNROLL for (int v = 0; v < vectors; v++) total[v] += sum[i][v];
  U is_special = {};
  UNROLL for (int v = 0; v < vectors; v++) is_special |= (U)(total[v] - total[v] != 0);
  if (__builtin_expect(__builtin_reduce_or(is_special) != 0, false)) {
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int v = 0; v < vectors; v++)
        sum[i][v] = NAME(biased)(sum[i][v], NAME(load)(ready + (i * PANEL + v) * LANES));
  } else {
    UNROLL for (int i = 0; i < rows; i++)
      UNROLL for (int v = 0; v < vectors; v++) sum[i][v] += NAME(load)(ready + (i * PANEL + v) * LANES);
  }
}
