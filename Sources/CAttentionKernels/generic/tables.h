#ifndef ATTN_TABLES_H
#define ATTN_TABLES_H

#include "CAttentionKernels.h"

// One table per instruction set and element type; the file of each instruction set defines its two.
extern const attn_kernels attn_f32_kernels__portable, attn_f32_kernels__neon, attn_f32_kernels__avx2,
    attn_f32_kernels__avx512;
extern const attn_kernels attn_f64_kernels__portable, attn_f64_kernels__neon, attn_f64_kernels__avx2,
    attn_f64_kernels__avx512;

#endif
