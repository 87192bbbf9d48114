// NEON (Advanced SIMD), which every AArch64 CPU has.

#if defined(__aarch64__)

#define ISA neon
#define VECTOR_BYTES 16
#define PANEL 3
#define PRODUCT_PANEL 3
#define ACCUMULATORS 24
#define PRODUCT_PREFETCHES 0
#define FEW_ROWS_ACCUMULATORS 16
#define FEW_ROWS_KEYS 4
#define FEW_ROWS_AHEAD_BYTES 8192
#define FEW_ROWS_AHEAD_LOCALITY 3
#define HAS_FLOAT16
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)

#include "../generic/instantiate.inc"

#endif
