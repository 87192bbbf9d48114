#ifndef ATTN_TABLES_H
#define ATTN_TABLES_H

#include "CAttentionKernels.h"

// One table per family of vectors and element type, and one of products of parts per instruction set.
extern const attn_kernels attn_f32_kernels__portable, attn_f32_kernels__neon, attn_f32_kernels__avx2,
    attn_f32_kernels__avx512;
extern const attn_kernels attn_f64_kernels__portable, attn_f64_kernels__neon, attn_f64_kernels__avx2,
    attn_f64_kernels__avx512;

extern const attn_matrix_kernels attn_f32_matrix_kernels__portable, attn_f32_matrix_kernels__neon,
    attn_f32_matrix_kernels__avx2, attn_f32_matrix_kernels__avx512, attn_f32_matrix_kernels__avx512_bf16,
    attn_f32_matrix_kernels__amx;

#endif
