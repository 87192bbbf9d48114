#ifndef ATTN_TABLES_H
#define ATTN_TABLES_H

#include "CAttentionKernels.h"

// One table per instruction set and element type. The file of each instruction set defines two: for float and for
// double.
extern const attn_kernels attn_f32_kernels__portable, attn_f32_kernels__neon, attn_f32_kernels__avx2,
    attn_f32_kernels__avx512;
extern const attn_kernels attn_f64_kernels__portable, attn_f64_kernels__neon, attn_f64_kernels__avx2,
    attn_f64_kernels__avx512;

#endif
