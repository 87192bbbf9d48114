// Float16 and BFloat16 to float and back, to nearest, ties to even. Float only. See instantiate.h for the names.

typedef uint16_t NAME(half_bits) __attribute__((ext_vector_type(LANES)));

static inline INLINE V NAME(widened)(attn_half half, NAME(half_bits) bits) {
  if (half == attn_half_brain) return (V)(__builtin_convertvector(bits, U) << 16);
#ifdef HAS_FLOAT16
  typedef _Float16 halves __attribute__((ext_vector_type(LANES)));
  return __builtin_convertvector((halves)bits, V);
#else
  U wide = __builtin_convertvector(bits, U);
  U sign = (wide & 0x8000u) << 16, size = (wide & 0x7fffu) << 13;
  // Normal: the exponent's bias from 15 to 127. Denormal: m·2⁻²⁴ = (1 + m·2⁻¹⁰)·2⁻¹⁴ − 2⁻¹⁴, exact.
  U normal = size + (112u << 23);
  U special = size | 0x7f800000u;
  U denormal = (U)((V)(size | (113u << 23)) - 0x1p-14f);
  U result = (size >= (U)(0x7c00u << 13)) ? special : (size < (U)(0x0400u << 13)) ? denormal : normal;
  return (V)(result | sign);
#endif
}

static inline INLINE NAME(half_bits) NAME(narrowed)(attn_half half, V x) {
  U bits = (U)x;
  if (half == attn_half_brain) {
    // Rounding would carry a NaN with a low payload over to infinity: keep it quiet instead.
    U rounded = x != x ? bits | 0x00400000u : bits + 0x7fffu + (bits >> 16 & 1u);
    return __builtin_convertvector(rounded >> 16, NAME(half_bits));
  }
#ifdef HAS_FLOAT16
  typedef _Float16 halves __attribute__((ext_vector_type(LANES)));
  return (NAME(half_bits))__builtin_convertvector(x, halves);
#else
  U sign = bits & 0x80000000u, size = bits ^ sign;
  // Below 2⁻¹⁴ the float's own rounding does it: 1/2 has the last place that a denormal Float16 has.
  U denormal = (U)((V)size + 0.5f) - (126u << 23);
  U normal = (size - (112u << 23) + 0xfffu + (size >> 13 & 1u)) >> 13;
  U special = size > (U)0x7f800000u ? (U)0x7e00u : (U)0x7c00u;
  U result = size >= (U)0x477ff000u ? special : size < (U)(113u << 23) ? denormal : normal;
  return __builtin_convertvector(result | sign >> 16, NAME(half_bits));
#endif
}

static void NAME(widen)(attn_half half, ptrdiff_t count, const uint16_t *x, void *results) {
  T *y = results;
  ptrdiff_t i = 0;
  NAME(half_bits) bits;
  for (; i + LANES <= count; i += LANES) {
    __builtin_memcpy(&bits, x + i, sizeof bits);
    NAME(store)(y + i, NAME(widened)(half, bits));
  }
  if (i < count) {
    bits = (NAME(half_bits))(uint16_t)0;
    for (int j = 0; j < count - i; j++) bits[j] = x[i + j];
    NAME(store_tail)(y + i, count - i, NAME(widened)(half, bits));
  }
}

static void NAME(narrow)(attn_half half, ptrdiff_t count, const void *elements, uint16_t *y) {
  const T *x = elements;
  ptrdiff_t i = 0;
  for (; i + LANES <= count; i += LANES) {
    NAME(half_bits) bits = NAME(narrowed)(half, NAME(load)(x + i));
    __builtin_memcpy(y + i, &bits, sizeof bits);
  }
  if (i < count) {
    NAME(half_bits) bits = NAME(narrowed)(half, NAME(load_tail)(x + i, count - i, 0));
    for (int j = 0; j < count - i; j++) y[i + j] = bits[j];
  }
}
