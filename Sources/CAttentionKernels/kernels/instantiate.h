// Includes the kernels for float and for double. Before it, a file kernels_<isa>.c defines
//   ISA           the suffix of its symbols
//   VECTOR_BYTES  the width of its vectors
//   PANEL         the width of a panel, in vectors
//   PRODUCT_PANEL the same where a product is by itself
//   ACCUMULATORS  vectors that a product may keep in registers
//   FMA(a, b, c)  a·b + c, fused where the instruction set can
// and, where it has better than plain vector code, for each type
//   F32_POWERS with F32_POWER_BITS, F32_POWER_COEFFICIENTS and F32_FMA_ABOVE; F32_LOAD_TAIL, F32_STORE_TAIL, F32_ZERO_BYTES
//   and F32_HIDE; and the same with F64,
// HAS_FLOAT16 where instructions convert it, BLOCK_IN_ASSEMBLY where the product of a block is block_x86.h's, and
// ADDEND_BESIDE_PRODUCT where the steps of a product leave room for addend.h's.
// The kernels see
//   T           the element type                V, U   vectors of T and of unsigned integers as wide
//   NAME(x)     attn_<type>_x__<isa>            B      vectors of LANES bytes
//   LANES       elements in a vector            SUFFIX of x86's instructions on T
//   PER         elements in 16 bytes            SQUARES of PER by PER elements in PER vectors

#include <math.h>

#include "ahead.h"
#include "strides.h"
#include "tables.h"

#define PASTE_(prefix, x, isa) prefix##_##x##__##isa
#define PASTE(prefix, x, isa) PASTE_(prefix, x, isa)

#define INLINE __attribute__((always_inline))
#define LOG2_E ((T)0x1.71547652b82fep+0)
#define UNROLL _Pragma("clang loop unroll(full)")
#define PER (16 / (int)sizeof(T))
#define SQUARES (LANES / PER)

typedef float attn_vector_f32 __attribute__((ext_vector_type(VECTOR_BYTES / 4)));
typedef double attn_vector_f64 __attribute__((ext_vector_type(VECTOR_BYTES / 8)));
typedef uint32_t attn_vector_u32 __attribute__((ext_vector_type(VECTOR_BYTES / 4)));
typedef uint64_t attn_vector_u64 __attribute__((ext_vector_type(VECTOR_BYTES / 8)));
typedef uint8_t attn_bytes_f32 __attribute__((ext_vector_type(VECTOR_BYTES / 4)));
typedef uint8_t attn_bytes_f64 __attribute__((ext_vector_type(VECTOR_BYTES / 8)));

// MARK: float
#define T float
#define V attn_vector_f32
#define U attn_vector_u32
#define B attn_bytes_f32
#define LANES (VECTOR_BYTES / 4)
#define SUFFIX "s"
#define NAME(x) PASTE(attn_f32, x, ISA)
#define EXP2_LOWEST -125.5f
#define EXP_LOWEST -87.3365f // log₂e times it rounds to −126
#define EXP2_MANTISSA_BITS 23u
#ifdef F32_POWERS
#define EXP2_POWERS F32_POWERS
#define EXP2_POWER_BITS F32_POWER_BITS
#define EXP2_FMA_ABOVE F32_FMA_ABOVE
#define EXP2_MAGIC (0x1.8p23f / (1u << F32_POWER_BITS))
#define EXP2_COEFFICIENTS F32_POWER_COEFFICIENTS
#else
#define EXP2_MAGIC 0x1.8p23f
#define EXP2_EXPONENT_BIAS UINT32_C(127)
#define EXP2_COEFFICIENTS \
  COEFFICIENT(0x1.62e432p-1f), COEFFICIENT(0x1.ebfbe2p-3f), COEFFICIENT(0x1.c6ae72p-5f), \
  COEFFICIENT(0x1.3b270ep-7f), COEFFICIENT(0x1.5f7276p-10f), COEFFICIENT(0x1.470b4ap-13f)
#endif
#define GELU_LIMIT 5.5f
#define GELU_NUMERATOR                                                                               \
  0x1.988450p-2f, 0x1.15521ap-5f, 0x1.328764p-8f, 0x1.620d7ep-13f, 0x1.aa4898p-18f, 0x1.86d51ap-26f
#define GELU_DENOMINATOR                                                                             \
  1.0f, 0x1.018ef2p-2f, 0x1.d55572p-6f, 0x1.edfee0p-10f, 0x1.34e65ep-14f, 0x1.417402p-20f
#ifdef F32_LOAD_TAIL
#define LOAD_TAIL F32_LOAD_TAIL
#define STORE_TAIL F32_STORE_TAIL
#define ZERO_BYTES F32_ZERO_BYTES
#define HIDE F32_HIDE
#endif
#include "vectors.h"
#include "softmax.h"
#include "scores.h"
#include "halves.h"
#define HALF_BITS NAME(half_bits)
#include "rows.h"
#undef HALF_BITS
#include "activations.h"
#include "packing.h"
#include "addend.h"
#include "lanes.h"
#define HALVES .widen = NAME(widen), .narrow = NAME(narrow)
#include "table.h"
#undef HALVES
#undef T
#undef V
#undef U
#undef B
#undef LANES
#undef SUFFIX
#undef NAME
#undef EXP2_LOWEST
#undef EXP_LOWEST
#undef EXP2_MAGIC
#undef EXP2_EXPONENT_BIAS
#undef EXP2_MANTISSA_BITS
#undef EXP2_COEFFICIENTS
#undef GELU_LIMIT
#undef GELU_NUMERATOR
#undef GELU_DENOMINATOR
#undef EXP2_POWERS
#undef EXP2_POWER_BITS
#undef EXP2_FMA_ABOVE
#undef LOAD_TAIL
#undef STORE_TAIL
#undef ZERO_BYTES
#undef HIDE

// MARK: double
#define T double
#define V attn_vector_f64
#define U attn_vector_u64
#define B attn_bytes_f64
#define LANES (VECTOR_BYTES / 8)
#define SUFFIX "d"
#define NAME(x) PASTE(attn_f64, x, ISA)
#define EXP2_LOWEST -1021.5
#define EXP_LOWEST -708.396 // log₂e times it rounds to −1022
#define EXP2_MANTISSA_BITS 52u
#ifdef F64_POWERS
#define EXP2_POWERS F64_POWERS
#define EXP2_POWER_BITS F64_POWER_BITS
#define EXP2_FMA_ABOVE F64_FMA_ABOVE
#define EXP2_MAGIC (0x1.8p52 / (1u << F64_POWER_BITS))
#define EXP2_COEFFICIENTS F64_POWER_COEFFICIENTS
#else
#define EXP2_MAGIC 0x1.8p52
#define EXP2_EXPONENT_BIAS UINT64_C(1023)
#define EXP2_COEFFICIENTS \
  COEFFICIENT(0x1.62e42fefa39f3p-1), COEFFICIENT(0x1.ebfbdff82c598p-3), COEFFICIENT(0x1.c6b08d7048f31p-5), \
  COEFFICIENT(0x1.3b2ab6fba1e1cp-7), COEFFICIENT(0x1.5d87fe7bbbe07p-10), COEFFICIENT(0x1.4309130961163p-13), \
  COEFFICIENT(0x1.ffcbee3b0af8cp-17), COEFFICIENT(0x1.62bfd49ed0adfp-20), COEFFICIENT(0x1.b54167a0b9061p-24), \
  COEFFICIENT(0x1.e605f979c7a5dp-28), COEFFICIENT(0x1.c0638527edf34p-32)
#endif
#ifdef F64_LOAD_TAIL
#define LOAD_TAIL F64_LOAD_TAIL
#define STORE_TAIL F64_STORE_TAIL
#define ZERO_BYTES F64_ZERO_BYTES
#define HIDE F64_HIDE
#endif
#include "vectors.h"
#include "softmax.h"
#include "scores.h"
#include "rows.h"
#include "activations.h"
#include "packing.h"
#include "addend.h"
#include "lanes.h"
#define HALVES .widen = NULL, .narrow = NULL
#include "table.h"
