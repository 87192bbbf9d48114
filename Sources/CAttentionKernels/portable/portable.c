// The portable kernels: vectors of 16 bytes, which clang compiles to the instructions of the architecture's baseline.

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
// A product and a sum, not __builtin_elementwise_fma: without an FMA instruction the builtin is a call of libm, which
// takes 24 ns an element.
#define FMA(a, b, c) ((a) * (b) + (c))

#include "../generic/instantiate.inc"
