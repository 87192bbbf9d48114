// Vectors of LANES elements: loads and stores with tails, reductions, transposition. Written once and
// compiled per instruction set and element type: instantiate.h says with which names.
// No include guard: it is included twice on purpose.

// x > y ? x : y: a NaN in x is left out as long as y is none.
static inline V NAME(max)(V x, V y) { return x > y ? x : y; }

static inline V NAME(load)(const T *x) {
  V v;
  __builtin_memcpy(&v, x, sizeof v);
  return v;
}

static inline void NAME(store)(T *x, V v) { __builtin_memcpy(x, &v, sizeof v); }

#ifndef LOAD_TAIL
// The first `count` < LANES elements; the rest are `fill`. No byte past them is read.
static inline V NAME(load_tail)(const T *x, ptrdiff_t count, T fill) {
  T lanes[LANES];
  for (int i = 0; i < LANES; i++) lanes[i] = fill;
  for (ptrdiff_t i = 0; i < count; i++) lanes[i] = x[i];
  return NAME(load)(lanes);
}

static inline void NAME(store_tail)(T *x, ptrdiff_t count, V v) {
  T lanes[LANES];
  NAME(store)(lanes, v);
  for (ptrdiff_t i = 0; i < count; i++) x[i] = lanes[i];
}
#else
static inline V NAME(load_tail)(const T *x, ptrdiff_t count, T fill) { return LOAD_TAIL(x, count, fill); }
static inline void NAME(store_tail)(T *x, ptrdiff_t count, V v) { STORE_TAIL(x, count, v); }
#endif

static inline T NAME(reduce_max)(V v) {
  T most = v[0];
  for (int i = 1; i < LANES; i++) most = v[i] > most ? v[i] : most;
  return most;
}

static inline T NAME(reduce_add)(V v) {
  for (int half = LANES / 2; half; half /= 2)
    for (int i = 0; i < half; i++) v[i] += v[i + half];
  return v[0];
}

// Shuffles of two vectors a and b, each one instruction on x86: within each 16 bytes, every element of the
// lower (upper) half of a beside b's; the same with pairs of elements; and the even (odd) 16 bytes of a, then
// of b.
#define PLACE(j) ((j) % PER)
#define LOWER(j) ((j) - PLACE(j) + PLACE(j) / 2 + PLACE(j) % 2 * LANES)
#define UPPER(j) (LOWER(j) + PER / 2)
#define LOWER_PAIR(j) ((j) - PLACE(j) + PLACE(j) % 2 + PLACE(j) / 2 * LANES)
#define UPPER_PAIR(j) (LOWER_PAIR(j) + PER / 2)
#define EVEN(j) (2 * ((j) - PLACE(j)) % LANES + PLACE(j) + ((j) >= LANES / 2 ? LANES : 0))
#define ODD(j) ((EVEN(j) + PER) % (2 * LANES))
#if LANES == 16
#define LIST(f) \
  f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7), f(8), f(9), f(10), f(11), f(12), f(13), f(14), f(15)
#elif LANES == 8
#define LIST(f) f(0), f(1), f(2), f(3), f(4), f(5), f(6), f(7)
#elif LANES == 4
#define LIST(f) f(0), f(1), f(2), f(3)
#else
#define LIST(f) f(0), f(1)
#endif
#define SHUFFLE(a, b, f) __builtin_shufflevector(a, b, LIST(f))

static inline INLINE void NAME(exchange)(V *a, V *b, const int width) {
  V x = *a, y = *b;
  *a = width == 0 ? SHUFFLE(x, y, LOWER) : width == 1 ? SHUFFLE(x, y, LOWER_PAIR) : SHUFFLE(x, y, EVEN);
  *b = width == 0 ? SHUFFLE(x, y, UPPER) : width == 1 ? SHUFFLE(x, y, UPPER_PAIR) : SHUFFLE(x, y, ODD);
}

// Within each 16 bytes of PER rows, lane j of row i becomes lane i of row j.
static inline INLINE void NAME(transpose_within)(V x[PER]) {
  UNROLL for (int i = 0; i < PER; i += 2) NAME(exchange)(x + i, x + i + 1, 0);
  if (PER == 4) {
    NAME(exchange)(x, x + 2, 1);
    NAME(exchange)(x + 1, x + 3, 1);
    // Columns 0, 2, 1, 3: in order.
    V t = x[1];
    x[1] = x[2];
    x[2] = t;
  }
}

// The same for SQUARES rows, `step` apart, whose elements are 16 bytes.
static inline INLINE void NAME(transpose_between)(V *x, const int step) {
  if (SQUARES == 2) NAME(exchange)(x, x + step, 2);
  if (SQUARES == 4) {
    UNROLL for (int i = 0; i < 4; i += 2) NAME(exchange)(x + i * step, x + (i + 1) * step, 2);
    UNROLL for (int i = 0; i < 2; i++) NAME(exchange)(x + i * step, x + (i + 2) * step, 2);
  }
}

// Lane j of row i becomes lane i of row j.
static inline INLINE void NAME(transpose)(V x[LANES]) {
  UNROLL for (int i = 0; i < LANES; i += PER) NAME(transpose_within)(x + i);
  UNROLL for (int c = 0; c < PER; c++) NAME(transpose_between)(x + c, PER);
}

// Lane j of the result is the sum of x[j]'s lanes.
static inline INLINE V NAME(sums)(V x[LANES]) {
  UNROLL for (int stage = 1; stage < LANES; stage *= 2) {
    UNROLL for (int i = 0; i < LANES / 2; i++) if (i < LANES / 2 / stage) {
      NAME(exchange)(x + 2 * i, x + 2 * i + 1, stage >= PER ? 2 : stage - 1);
      x[i] = x[2 * i] + x[2 * i + 1];
    }
  }
  return x[0];
}
#undef PLACE
#undef LOWER
#undef UPPER
#undef LOWER_PAIR
#undef UPPER_PAIR
#undef EVEN
#undef ODD
#undef LIST
#undef SHUFFLE
