// What follows a product in the layers of a model: a bias and an activation, and the norm of rows. See instantiate.h for the
// names.

#ifdef GELU_LIMIT
// Φ(x) = 1/2 + x·P(x²)/Q(x²), the rational minimax approximation of degrees 5 and 5 on [−5.5, 5.5], error 7.2e-9;
// outside 0 or 1. x·Φ(x) errs by ≤ 4 ULP of x (ActivationKernelTests.geluULP).
static inline INLINE V NAME(normal_distribution)(V x) {
  static const T above[] = {GELU_NUMERATOR}, below[] = {GELU_DENOMINATOR};
  enum { degree = 5 };
  V y = x * x, p = (V)above[degree], q = (V)below[degree];
  UNROLL for (int i = degree - 1; i >= 0; i--) {
    p = FMA(p, y, (V)above[i]);
    q = FMA(q, y, (V)below[i]);
  }
  V phi = (T)0.5 + x * p / q;
  phi = x > (T)GELU_LIMIT ? (V)(T)1 : phi;
  return x < -(T)GELU_LIMIT ? (V){} : phi;
}
#else
// By the C library: nobody runs a model in this type for speed.
static inline INLINE V NAME(normal_distribution)(V x) {
  V phi;
  for (int i = 0; i < LANES; i++) phi[i] = (T)(0.5 * erfc(-(double)x[i] * 0x1.6a09e667f3bcdp-1));
  return phi;
}
#endif

static inline INLINE V NAME(activated)(const attn_activation activation, V x) {
  switch (activation) {
    case attn_activation_none: return x;
    case attn_activation_relu: return x < 0 ? (V){} : x;
    case attn_activation_gelu: return x * NAME(normal_distribution)(x);
    case attn_activation_gelu_tanh: {
      // √(2/π)·(x + 0.044715·x³). Hazard: x·x is infinite for large x, and ∞·0 is NaN: tanh of infinity is 1.
      V u = x * FMA(x * x, (V)(T)(0.044715 * 0x1.9884533d43651p-1), (V)(T)0x1.9884533d43651p-1);
      return x * ((T)0.5 + (T)0.5 * NAME(softcapped)(u, (V)(T)1, (V)(T)1));
    }
  }
}

// c = f(c + bias) for some rows of vectors.
static inline INLINE void NAME(finish_as)(
    const attn_activation activation, ptrdiff_t row_count, ptrdiff_t count, T *c, ptrdiff_t stride, const T *bias) {
  for (ptrdiff_t i = 0; i < row_count; i++, c += stride)
    for (ptrdiff_t j = 0; j < count; j += LANES) {
      V x = NAME(load)(c + j);
      if (bias) x += NAME(load)(bias + j);
      NAME(store)(c + j, NAME(activated)(activation, x));
    }
}

static __attribute__((noinline)) void NAME(finish)(
    attn_activation activation, ptrdiff_t row_count, ptrdiff_t count, T *c, ptrdiff_t stride, const T *bias) {
  switch (activation) {
    case attn_activation_none: return NAME(finish_as)(attn_activation_none, row_count, count, c, stride, bias);
    case attn_activation_relu: return NAME(finish_as)(attn_activation_relu, row_count, count, c, stride, bias);
    case attn_activation_gelu: return NAME(finish_as)(attn_activation_gelu, row_count, count, c, stride, bias);
    case attn_activation_gelu_tanh: return NAME(finish_as)(attn_activation_gelu_tanh, row_count, count, c, stride, bias);
  }
}

static void NAME(activate)(attn_activation activation, ptrdiff_t count, void *elements) {
  T *x = elements;
  const ptrdiff_t whole = count - count % LANES;
  NAME(finish)(activation, 1, whole, x, 0, NULL);
  if (whole == count) return;
  T tail[LANES];
  NAME(store)(tail, NAME(load_tail)(x + whole, count - whole, 0));
  NAME(finish)(activation, 1, LANES, tail, 0, NULL);
  NAME(store_tail)(x + whole, count - whole, NAME(load)(tail));
}

static void NAME(layer_norm)(const attn_layer_norm *p) {
  const T *weight = p->weight, *bias = p->bias;
  const ptrdiff_t width = p->width, whole = width - width % LANES;
  for (ptrdiff_t row = 0; row < p->row_count; row++) {
    const T *x = (const T *)p->x + row * p->x_stride;
    const T *residual = p->residual ? (const T *)p->residual + row * p->residual_stride : NULL;
    T *y = (T *)p->y + row * p->y_stride;
    V sum = {};
    for (ptrdiff_t i = 0; i < whole; i += LANES) {
      V v = NAME(load)(x + i);
      if (residual) v += NAME(load)(residual + i);
      NAME(store)(y + i, v);
      sum += v;
    }
    if (whole < width) {
      V v = NAME(load_tail)(x + whole, width - whole, 0);
      if (residual) v += NAME(load_tail)(residual + whole, width - whole, 0);
      NAME(store_tail)(y + whole, width - whole, v);
      sum += v;
    }
    const T mean = NAME(reduce_add)(sum) / (T)width;
    // The mean is taken off first: Σx² − (Σx)² would cancel.
    V squares = {};
    for (ptrdiff_t i = 0; i < whole; i += LANES) {
      V v = NAME(load)(y + i) - mean;
      squares = FMA(v, v, squares);
    }
    if (whole < width) {
      V v = NAME(load_tail)(y + whole, width - whole, mean) - mean;
      squares = FMA(v, v, squares);
    }
    const T variance = NAME(reduce_add)(squares) / (T)width;
    const T factor = (T)(1 / sqrt((double)variance + p->epsilon));
    for (ptrdiff_t i = 0; i < whole; i += LANES) {
      V v = (NAME(load)(y + i) - mean) * factor;
      NAME(store)(y + i, FMA(v, NAME(load)(weight + i), NAME(load)(bias + i)));
    }
    if (whole < width) {
      const ptrdiff_t count = width - whole;
      V v = (NAME(load_tail)(y + whole, count, 0) - mean) * factor;
      v = FMA(v, NAME(load_tail)(weight + whole, count, 0), NAME(load_tail)(bias + whole, count, 0));
      NAME(store_tail)(y + whole, count, v);
    }
  }
}
