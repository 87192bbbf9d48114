// What is done to scores between the product and the softmax, biases and masks aside. See instantiate.h for the names.

// cap·tanh(x/cap) ≤ 4 ULP, double ≤ 5 (ScoreKernelTests.softcapULP); ±∞ → ±cap, NaN → NaN.
static inline INLINE V NAME(softcapped)(V x, V cap, V inverse) {
  const V one = (V)(T)1;
  V z = x * inverse;
  V size = z < 0 ? -z : z;
  V y = z * z;
  // Up to 1/2 by the [7/6] Padé approximant, relative error 2e-16: 1 − e^(−2z) would cancel. Above by e^(−2z).
  V t = NAME(exp)(-2 * size);
  V near = FMA(FMA(y + (T)378, y, (V)(T)17325), y, (V)(T)135135) * z;
  V near_divisor = FMA(FMA(FMA((V)(T)28, y, (V)(T)3150), y, (V)(T)62370), y, (V)(T)135135);
  V far = z < 0 ? t - one : one - t;
  V numerator = size < (T)0.5 ? near : far;
  V divisor = size < (T)0.5 ? near_divisor : one + t;
  return cap * (numerator / divisor);
}

static void NAME(softcap)(ptrdiff_t count, void *elements, double most) {
  T *x = elements;
  const V cap = (V)(T)most, inverse = (V)(T)(1 / (T)most);
  ptrdiff_t i = 0;
  for (; i + LANES <= count; i += LANES) NAME(store)(x + i, NAME(softcapped)(NAME(load)(x + i), cap, inverse));
  if (i < count) NAME(store_tail)(x + i, count - i, NAME(softcapped)(NAME(load_tail)(x + i, count - i, 0), cap, inverse));
}

static inline INLINE V NAME(distance)(V a, V b) { return a < b ? b - a : a - b; }

// scores[key, lane] −= slope[lane]·|position[lane] − key|.
static void NAME(distance_lanes)(const attn_distance *p) {
  const T *slope = p->slope, *position = p->position;
  for (ptrdiff_t v = 0; v < p->vector_count * LANES; v += LANES) {
    const V s = NAME(load)(slope + v), at = NAME(load)(position + v);
    T *scores = (T *)p->scores + v;
    for (ptrdiff_t key = 0; key < p->key_count; key++, scores += p->stride)
      NAME(store)(scores, FMA(-s, NAME(distance)(at, (V)(T)key), NAME(load)(scores)));
  }
}

// scores[row, key] −= slope[row]·|position[row] − key|.
static void NAME(distance_rows)(const attn_distance *p) {
  V steps;
  for (int i = 0; i < LANES; i++) steps[i] = i;
  for (ptrdiff_t row = 0; row < p->row_count; row++) {
    const V s = (V)((const T *)p->slope)[row], at = (V)((const T *)p->position)[row];
    T *scores = (T *)p->scores + row * p->stride;
    ptrdiff_t key = 0;
    for (; key + LANES <= p->key_count; key += LANES)
      NAME(store)(scores + key, FMA(-s, NAME(distance)(at, steps + (T)key), NAME(load)(scores + key)));
    if (key < p->key_count) {
      V x = NAME(load_tail)(scores + key, p->key_count - key, 0);
      NAME(store_tail)(scores + key, p->key_count - key, FMA(-s, NAME(distance)(at, steps + (T)key), x));
    }
  }
}
