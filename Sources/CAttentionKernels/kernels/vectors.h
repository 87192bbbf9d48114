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

// Shuffles of two vectors in which lane j comes from a where bit h of j is 0, else from b: the parts of
// both that LOW leaves are those that HIGH takes. Exchanging bit h of the row's number with bit h of the
// lane's, for every h, transposes LANES vectors.
#define LOW(j, h) ((j) & (h) ? (j) - (h) + LANES : (j))
#define HIGH(j, h) ((j) & (h) ? (j) + LANES : (j) + (h))
#if LANES == 16
#define LIST(f, h)                                                                                   \
  f(0, h), f(1, h), f(2, h), f(3, h), f(4, h), f(5, h), f(6, h), f(7, h), f(8, h), f(9, h), f(10, h), f(11, h), \
      f(12, h), f(13, h), f(14, h), f(15, h)
#elif LANES == 8
#define LIST(f, h) f(0, h), f(1, h), f(2, h), f(3, h), f(4, h), f(5, h), f(6, h), f(7, h)
#elif LANES == 4
#define LIST(f, h) f(0, h), f(1, h), f(2, h), f(3, h)
#else
#define LIST(f, h) f(0, h), f(1, h)
#endif

static inline INLINE void NAME(transpose)(V x[LANES]) {
#define STAGE(h)                                                                                     \
  UNROLL for (int i = 0; i < LANES; i++) if (!(i & (h))) {                                           \
    V a = x[i], b = x[i + (h)];                                                                      \
    x[i] = __builtin_shufflevector(a, b, LIST(LOW, h));                                              \
    x[i + (h)] = __builtin_shufflevector(a, b, LIST(HIGH, h));                                       \
  }
#if LANES > 8
  STAGE(8)
#endif
#if LANES > 4
  STAGE(4)
#endif
#if LANES > 2
  STAGE(2)
#endif
  STAGE(1)
#undef STAGE
}

// Lane j of the result is the sum of x[j]'s lanes.
static inline INLINE V NAME(sums)(V x[LANES]) {
#define STAGE(h)                                                                                     \
  UNROLL for (int i = 0; i < (h); i++)                                                               \
      x[i] = __builtin_shufflevector(x[i], x[i + (h)], LIST(LOW, h)) +                               \
             __builtin_shufflevector(x[i], x[i + (h)], LIST(HIGH, h));
#if LANES > 8
  STAGE(8)
#endif
#if LANES > 4
  STAGE(4)
#endif
#if LANES > 2
  STAGE(2)
#endif
  STAGE(1)
#undef STAGE
  return x[0];
}
#undef LOW
#undef HIGH
#undef LIST
