#ifndef ATTN_TABLES_H
#define ATTN_TABLES_H

#include "CAttentionKernels.h"

// The tables of kernels, one for each instruction set and element type, and the tables of products of BFloat16 parts,
// one for each instruction set. AVX512-BF16 and AMX share the tables of kernels of AVX-512.
extern const attn_kernels attn_f32_kernels__portable, attn_f32_kernels__neon, attn_f32_kernels__avx2,
    attn_f32_kernels__avx512;
extern const attn_kernels attn_f64_kernels__portable, attn_f64_kernels__neon, attn_f64_kernels__avx2,
    attn_f64_kernels__avx512;

extern const attn_matrix_kernels attn_f32_matrix_kernels__portable, attn_f32_matrix_kernels__neon,
    attn_f32_matrix_kernels__avx2, attn_f32_matrix_kernels__avx512, attn_f32_matrix_kernels__avx512_bf16,
    attn_f32_matrix_kernels__amx;

#endif
