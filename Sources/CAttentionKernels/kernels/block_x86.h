// The product of a block, a[rows, depth]·b[depth, vectors], by AVX2: 4 rows of A by 3 vectors of B, or 6 by 2, fill 12 of
// the 16 registers with sums. See instantiate.h for the names.
//
// In assembly, because clang 21 moves and spills the sums of 4 × 3 in every step, at half the speed, and makes 25
// instructions of the 12 products of 6 × 2. Here they are 19 and 20. Where another thread shares the core, instructions and
// loads count: 4 × 3 takes 0.80 to 0.85 of the time of 6 × 2 by clang; with the third vector of B as an operand in memory,
// 18 instructions but 10 loads instead of 7, it took 1.02 to 1.06 (Benchmarks/NOTES.md).

// Addresses of A, `a_stride` bytes apart along one direction and an element along the other, and of B.
#define A0 "(%[a])"
#define A1 "(%[a],%[a_stride])"
#define A2 "(%[a],%[a_stride],2)"
#define A3 "(%[a],%[a_stride_3])"
#define A4 "(%[a],%[a_stride],4)"
#define A5 "(%[a],%[a_stride_5])"
#define B0 "(%[b])"
#define B1 "(%[b],%[b_stride])"
#define B2 "(%[b],%[b_stride],2)"
#define B3 "(%[b],%[b_stride_3])"
#define ELEMENTS(count) #count "*%c[size]"

// What one element of A adds to the sums of its row.
#define ROW(i, a)                                                                      \
  "vbroadcasts" SUFFIX " " a ", %[x]\n\t"                                              \
  "vfmadd231p" SUFFIX " %[b0], %[x], %[sum" #i "0]\n\t"                                \
  "vfmadd231p" SUFFIX " %[b1], %[x], %[sum" #i "1]\n\t"
#define ROW_BY_3(i, a) ROW(i, a) "vfmadd231p" SUFFIX " %[b2], %[x], %[sum" #i "2]\n\t"
// One step along the depth.
#define LOAD(b) "vmovups " b ", %[b0]\n\tvmovups 32" b ", %[b1]\n\t"
#define STEP_4_BY_3(b, a0, a1, a2, a3) \
  LOAD(b) "vmovups 64" b ", %[b2]\n\t" ROW_BY_3(0, a0) ROW_BY_3(1, a1) ROW_BY_3(2, a2) ROW_BY_3(3, a3)
#define STEP_6_BY_2(b, a0, a1, a2, a3, a4, a5) LOAD(b) ROW(0, a0) ROW(1, a1) ROW(2, a2) ROW(3, a3) ROW(4, a4) ROW(5, a5)
// Of rows a stride apart, the k-th step; of rows an element apart, the step at `a`.
#define ROWS_4_BY_3(k, b) STEP_4_BY_3(b, ELEMENTS(k) A0, ELEMENTS(k) A1, ELEMENTS(k) A2, ELEMENTS(k) A3)
#define ROWS_6_BY_2(k, b) \
  STEP_6_BY_2(b, ELEMENTS(k) A0, ELEMENTS(k) A1, ELEMENTS(k) A2, ELEMENTS(k) A3, ELEMENTS(k) A4, ELEMENTS(k) A5)
#define COLUMNS_4_BY_3(a, b) STEP_4_BY_3(b, ELEMENTS(0) a, ELEMENTS(1) a, ELEMENTS(2) a, ELEMENTS(3) a)
#define COLUMNS_6_BY_2(a, b) \
  STEP_6_BY_2(b, ELEMENTS(0) a, ELEMENTS(1) a, ELEMENTS(2) a, ELEMENTS(3) a, ELEMENTS(4) a, ELEMENTS(5) a)

#define SUM(i, v) [sum##i##v] "+&x"(sum[i][v])
#define SUM_2(i) SUM(i, 0), SUM(i, 1)
#define SUM_4_BY_3 SUM_2(0), SUM(0, 2), SUM_2(1), SUM(1, 2), SUM_2(2), SUM(2, 2), SUM_2(3), SUM(3, 2)
#define SUM_6_BY_2 SUM_2(0), SUM_2(1), SUM_2(2), SUM_2(3), SUM_2(4), SUM_2(5)

// Four steps at a time, then one.
#define BLOCK(shape, four, one, skip_four, skip_one)                                   \
  __asm__ volatile(                                                                    \
      "test %[fours], %[fours]\n\t"                                                    \
      "jz 2f\n\t"                                                                      \
      ".p2align 5\n"                                                                   \
      "1:\n\t" four                                                                    \
      "lea (%[b],%[b_stride],4), %[b]\n\t" skip_four                                   \
      "dec %[fours]\n\t"                                                               \
      "jnz 1b\n"                                                                       \
      "2:\n\t"                                                                         \
      "test %[ones], %[ones]\n\t"                                                      \
      "jz 4f\n"                                                                        \
      "3:\n\t" one                                                                     \
      "add %[b_stride], %[b]\n\t" skip_one                                             \
      "dec %[ones]\n\t"                                                                \
      "jnz 3b\n"                                                                       \
      "4:"                                                                             \
      : SUM_##shape, [x] "=&x"(x), [b0] "=&x"(b0), [b1] "=&x"(b1), [b2] "=&x"(b2), [a] "+&r"(a), [b] "+&r"(b), [fours] "+&r"(fours),  \
        [ones] "+&r"(ones)                                                             \
      : [a_stride] "r"(a_stride), [a_stride_3] "r"(3 * a_stride), [a_stride_5] "r"(5 * a_stride),                     \
        [b_stride] "r"(b_stride), [b_stride_3] "r"(3 * b_stride), [size] "i"(sizeof(T))                               \
      : "cc", "memory")
#define BLOCK_BY_ROWS(shape)                                                                                          \
  BLOCK(shape, ROWS_##shape(0, B0) ROWS_##shape(1, B1) ROWS_##shape(2, B2) ROWS_##shape(3, B3), ROWS_##shape(0, B0),  \
        "add $" ELEMENTS(4) ", %[a]\n\t", "add $" ELEMENTS(1) ", %[a]\n\t")
#define BLOCK_BY_COLUMNS(shape)                                                                                       \
  BLOCK(shape, COLUMNS_##shape(A0, B0) COLUMNS_##shape(A1, B1) COLUMNS_##shape(A2, B2) COLUMNS_##shape(A3, B3),       \
        COLUMNS_##shape(A0, B0), "lea (%[a],%[a_stride],4), %[a]\n\t", "add %[a_stride], %[a]\n\t")

// sum += a·b of 4 rows by 3 vectors, or 6 by 2. One of A's strides is 1.
static inline INLINE void NAME(multiply_block)(
    const int vectors, V sum[][PRODUCT_PANEL], ptrdiff_t depth, const T *a, ptrdiff_t row_stride, ptrdiff_t column_stride,
    const T *b, ptrdiff_t b_stride) {
  V x, b0, b1, b2;
  size_t fours = (size_t)depth / 4, ones = (size_t)depth % 4;
  const ptrdiff_t a_stride = (column_stride == 1 ? row_stride : column_stride) * (ptrdiff_t)sizeof(T);
  b_stride *= sizeof(T);
  if (vectors == 3) {
    if (column_stride == 1) BLOCK_BY_ROWS(4_BY_3);
    else BLOCK_BY_COLUMNS(4_BY_3);
  } else {
    if (column_stride == 1) BLOCK_BY_ROWS(6_BY_2);
    else BLOCK_BY_COLUMNS(6_BY_2);
  }
}
#undef A0
#undef A1
#undef A2
#undef A3
#undef A4
#undef A5
#undef B0
#undef B1
#undef B2
#undef B3
#undef ELEMENTS
#undef ROW
#undef ROW_BY_3
#undef LOAD
#undef STEP_4_BY_3
#undef STEP_6_BY_2
#undef ROWS_4_BY_3
#undef ROWS_6_BY_2
#undef COLUMNS_4_BY_3
#undef COLUMNS_6_BY_2
#undef SUM
#undef SUM_2
#undef SUM_4_BY_3
#undef SUM_6_BY_2
#undef BLOCK
#undef BLOCK_BY_ROWS
#undef BLOCK_BY_COLUMNS
