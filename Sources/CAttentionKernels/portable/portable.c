// Portable: 16-byte vectors that clang lowers to whatever the baseline has.

#define ISA portable
#define VECTOR_BYTES 16
#define PANEL 2
#define PRODUCT_PANEL 2
#define ACCUMULATORS 8
#define PRODUCT_PREFETCHES 0
#define FEW_ROWS_ACCUMULATORS 12
#define FEW_ROWS_KEYS 2
#define FEW_ROWS_AHEAD_BYTES 32768
#define FEW_ROWS_AHEAD_LOCALITY 2
// Not __builtin_elementwise_fma: without an FMA instruction this is a call of libm, which takes 24 ns an element.
#define FMA(a, b, c) ((a) * (b) + (c))

#include "../generic/instantiate.inc"
