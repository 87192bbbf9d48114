// AVX2, FMA and F16C.

#if defined(__x86_64__)

// Before the push: the headers' own functions must keep their own targets.
#include <math.h>

#include "kernels/tables.h"

#pragma clang attribute push(__attribute__((target("avx2,fma,f16c"))), apply_to = function)

#define ISA avx2
#define VECTOR_BYTES 32
#define PANEL 3
#define PRODUCT_PANEL 3
#define ACCUMULATORS 12
#define HAS_FLOAT16
#define BLOCK_IN_ASSEMBLY
#define FMA(a, b, c) __builtin_elementwise_fma(a, b, c)

#include "kernels/instantiate.h"

#pragma clang attribute pop

#endif
