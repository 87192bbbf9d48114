// The softmax of rows, and the row operations around it. See instantiate.h for the names.

// 2^t for t ≤ 0. n is t rounded, to a multiple of 1/32 or 1/8 (double: 1/16) where a table gives 2^n, else to a whole number;
// r = t − n, 2^t = p(r)·2^n with p the minimax polynomial, constant term 1. Its relative error is ≤ 1.5e-10 or 2.7e-8 (float,
// degree 3) and ≤ 7.1e-18 (double, degree 6) with a table, else ≤ 2.6e-9 (degree 6) and ≤ 1.8e-17 (degree 11).
// Above −125.5 (double: −1021.5) ≤ 1.5 ULP (SoftmaxKernelTests.exp2ULP). Up to there, and for −inf: +0,
// so that no denormal slows the product with the values. NaN → NaN. No clamp of t may take NaN along.
#ifdef EXP2_POWERS
// y = 2^(x·factor), 0 up to x = lowest, for several vectors side by side: one by one they take 1.03 to 1.06 of the time, for
// each waits for some eight results in turn. x·factor is not rounded on its way. y may be x. Source: Tang 1989 (ACM TOMS 15.2),
// the table being of registers.
static inline INLINE void NAME(exp2_all)(const int count, const V *x, T factor, T lowest, V *y) {
  V shifted[PANEL], r[PANEL], p[PANEL];
  static const T coefficients[] = {EXP2_COEFFICIENTS};
  enum { degree = sizeof coefficients / sizeof *coefficients };
  // Adding 1.5·2^(mantissa bits − power bits) leaves the index of 2^n in the low bits of the sum, and n's whole part above.
  UNROLL for (int i = 0; i < count; i++) shifted[i] = FMA(x[i], (V){} + factor, (V){} + EXP2_MAGIC);
  UNROLL for (int i = 0; i < count; i++) r[i] = FMA(x[i], (V){} + factor, -(shifted[i] - EXP2_MAGIC));
  UNROLL for (int i = 0; i < count; i++) p[i] = (V){} + coefficients[degree - 1];
  UNROLL for (int j = degree - 2; j >= 0; j--)
    UNROLL for (int i = 0; i < count; i++) p[i] = FMA(p[i], r[i], (V){} + coefficients[j]);
  UNROLL for (int i = 0; i < count; i++) {
    V scale = (V)(EXP2_POWERS((U)shifted[i]) + ((U)shifted[i] << (EXP2_MANTISSA_BITS - EXP2_POWER_BITS)));
    y[i] = EXP2_FMA_ABOVE(x[i], lowest, r[i] * scale, p[i], scale);
  }
}

static inline INLINE V NAME(exp2)(V t) {
  NAME(exp2_all)(1, &t, 1, EXP2_LOWEST, &t);
  return t;
}

// e^x, x ≤ 0.
static inline INLINE V NAME(exp)(V x) {
  NAME(exp2_all)(1, &x, LOG2_E, EXP_LOWEST, &x);
  return x;
}
#else
// In two steps, for several vectors to go through them side by side. The first one: r, and 2^(n − 1) as the result, 0 if
// n is the least exponent. So is whatever is less, for x is no less than `lowest`. t = x·factor is not rounded on its way.
static inline INLINE V NAME(exp2_split)(V x, T factor, T lowest, V *r) {
  x = NAME(max)((V){} + lowest, x);
  // Adding 1.5·2^(mantissa bits) leaves the rounded integer in the low bits of the sum.
  V shifted = FMA(x, (V){} + factor, (V){} + EXP2_MAGIC);
  *r = FMA(x, (V){} + factor, -(shifted - EXP2_MAGIC));
  return (V)(((U)shifted << EXP2_MANTISSA_BITS) + (((U){} + (EXP2_EXPONENT_BIAS - 1)) << EXP2_MANTISSA_BITS));
}

// The second one: 2·p(r), by which what the first one gave is to be multiplied.
static inline INLINE void NAME(exp2_join)(const int count, const V *r, V *p) {
#define COEFFICIENT(c) 2 * c
  static const T doubled[] = {2, EXP2_COEFFICIENTS};
#undef COEFFICIENT
  enum { degree = sizeof doubled / sizeof *doubled - 1 };
  // Behind a pointer whose target is not known, the compiler leaves them in memory, one for all the vectors. In
  // registers it would have to spill the vectors for them.
  const T *coefficients = doubled;
  __asm__("" : "+r"(coefficients));
  UNROLL for (int v = 0; v < count; v++) p[v] = (V){} + coefficients[degree];
  UNROLL for (int i = degree - 1; i >= 0; i--) {
    V coefficient = (V){} + coefficients[i];
    UNROLL for (int v = 0; v < count; v++) p[v] = FMA(p[v], r[v], coefficient);
  }
}

static inline INLINE V NAME(exp2)(V t) {
  V r, p, scale = NAME(exp2_split)(t, 1, EXP2_LOWEST - (T)0.5, &r);
  NAME(exp2_join)(1, &r, &p);
  return p * scale;
}

// e^x, x ≤ 0.
static inline INLINE V NAME(exp)(V x) {
  V r, p, scale = NAME(exp2_split)(x, LOG2_E, EXP_LOWEST, &r);
  NAME(exp2_join)(1, &r, &p);
  return p * scale;
}
#endif

static double NAME(maximum)(ptrdiff_t count, const void *elements) {
  const T *x = elements;
  V most = (V){} - (T)INFINITY, most2 = most;
  ptrdiff_t i = 0;
  for (; i + 2 * LANES <= count; i += 2 * LANES) {
    most = NAME(max)(NAME(load)(x + i), most);
    most2 = NAME(max)(NAME(load)(x + i + LANES), most2);
  }
  for (; i + LANES <= count; i += LANES) most = NAME(max)(NAME(load)(x + i), most);
  if (i < count) most2 = NAME(max)(NAME(load_tail)(x + i, count - i, -(T)INFINITY), most2);
  return NAME(reduce_max)(NAME(max)(most, most2));
}

static double NAME(exponential_sum)(ptrdiff_t count, const void *elements, double shift, void *results) {
  const T *x = elements;
  T *y = results;
  // Subtracting first is exact near the maximum and cannot overflow where the scores are huge, as one fused
  // multiply-add by log2 e would.
  const V m = (V)(T)shift;
  V sum = (V){}, sum2 = sum;
  ptrdiff_t i = 0;
  for (; i + 2 * LANES <= count; i += 2 * LANES) {
    V e = NAME(exp)(NAME(load)(x + i) - m);
    V e2 = NAME(exp)(NAME(load)(x + i + LANES) - m);
    NAME(store)(y + i, e);
    NAME(store)(y + i + LANES, e2);
    sum += e;
    sum2 += e2;
  }
  for (; i + LANES <= count; i += LANES) {
    V e = NAME(exp)(NAME(load)(x + i) - m);
    NAME(store)(y + i, e);
    sum += e;
  }
  if (i < count) {
    V e = NAME(exp)(NAME(load_tail)(x + i, count - i, -(T)INFINITY) - m);
    NAME(store_tail)(y + i, count - i, e);
    sum2 += e;
  }
  return NAME(reduce_add)(sum + sum2);
}

static bool NAME(holds_nan)(ptrdiff_t count, const T *x) {
  for (ptrdiff_t i = 0; i < count; i++)
    if (x[i] != x[i]) return true;
  return false;
}

static void NAME(softmax_rows)(const attn_softmax_rows *tile) {
  T *maximum = tile->maximum, *sum = tile->sum, *rescale = tile->rescale;
  const T *begins = tile->begin, *ends = tile->end;
  for (ptrdiff_t row = 0; row < tile->row_count; row++) {
    T *scores = (T *)tile->scores + row * tile->stride;
    ptrdiff_t begin = begins ? (ptrdiff_t)begins[row] : 0;
    ptrdiff_t end = ends ? (ptrdiff_t)ends[row] : tile->column_count;
    if (begin > 0) __builtin_memset(scores, 0, begin * sizeof(T));
    if (end < tile->column_count) __builtin_memset(scores + end, 0, (tile->column_count - end) * sizeof(T));
    T old = maximum[row];
    T most = (T)NAME(maximum)(end - begin, scores + begin);
    T new = most > old ? most : old;
    rescale[row] = 1;
    if (new == -(T)INFINITY) {
      // Hazard: −inf − −inf is NaN. Either nothing is attended yet, or only NaN is.
      bool nan = NAME(holds_nan)(end - begin, scores + begin);
      for (ptrdiff_t i = begin; i < end; i++) scores[i] = nan ? (T)NAN : 0;
      if (nan) maximum[row] = sum[row] = (T)NAN;
      continue;
    }
    T added = (T)NAME(exponential_sum)(end - begin, scores + begin, new, scores + begin);
    if (new != old && old != -(T)INFINITY) {
      V factor = NAME(exp)((V)(old - new));
      rescale[row] = factor[0];
    }
    sum[row] = sum[row] * rescale[row] + added;
    maximum[row] = new;
  }
}

static void NAME(scale)(ptrdiff_t count, const void *elements, double by, void *results) {
  const T *x = elements;
  T *y = results, factor = (T)by;
  ptrdiff_t i = 0;
  for (; i + LANES <= count; i += LANES) NAME(store)(y + i, NAME(load)(x + i) * factor);
  if (i < count) NAME(store_tail)(y + i, count - i, NAME(load_tail)(x + i, count - i, 0) * factor);
}

static inline V NAME(biased)(V score, V bias) {
  // Also where an earlier bias or mask said so: −inf + inf is NaN.
  return ((score != -(T)INFINITY) & (bias != -(T)INFINITY)) ? score + bias : (V)(-(T)INFINITY);
}

static void NAME(add_bias)(ptrdiff_t count, void *elements, const void *biases) {
  T *scores = elements;
  const T *bias = biases;
  ptrdiff_t i = 0;
  for (; i + LANES <= count; i += LANES)
    NAME(store)(scores + i, NAME(biased)(NAME(load)(scores + i), NAME(load)(bias + i)));
  if (i < count) {
    V v = NAME(biased)(NAME(load_tail)(scores + i, count - i, 0), NAME(load_tail)(bias + i, count - i, 0));
    NAME(store_tail)(scores + i, count - i, v);
  }
}

static void NAME(mask)(ptrdiff_t count, void *elements, const uint8_t *attend) {
  T *scores = elements;
  for (ptrdiff_t i = 0; i < count; i++) scores[i] = attend[i] ? scores[i] : -(T)INFINITY;
}

static bool NAME(is_finite)(ptrdiff_t count, const void *elements) {
  const T *x = elements;
  // 0·x is 0 for a finite x, else NaN; and NaN stays in a sum.
  const V zero = (V){};
  V sum[4] = {zero, zero, zero, zero};
  ptrdiff_t i = 0;
  for (; i + 4 * LANES <= count; i += 4 * LANES)
    UNROLL for (int v = 0; v < 4; v++) sum[v] = FMA(NAME(load)(x + i + v * LANES), zero, sum[v]);
  for (; i + LANES <= count; i += LANES) sum[0] = FMA(NAME(load)(x + i), zero, sum[0]);
  if (i < count) sum[1] = FMA(NAME(load_tail)(x + i, count - i, 0), zero, sum[1]);
  T total = NAME(reduce_add)((sum[0] + sum[1]) + (sum[2] + sum[3]));
  return total == total;
}

static void NAME(exp2_array)(ptrdiff_t count, const void *elements, void *results) {
  const T *x = elements;
  T *y = results;
  ptrdiff_t i = 0;
  for (; i + LANES <= count; i += LANES) NAME(store)(y + i, NAME(exp2)(NAME(load)(x + i)));
  if (i < count) NAME(store_tail)(y + i, count - i, NAME(exp2)(NAME(load_tail)(x + i, count - i, 0)));
}
