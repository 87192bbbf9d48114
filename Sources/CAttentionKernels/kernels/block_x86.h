// The product of a block, a[rows, depth]·b[depth, vectors], by AVX2: 4 rows of A times 3 vectors of B fill 12 of the 16
// registers. See instantiate.h for the names.
//
// In assembly, because clang 21 moves and spills the sums of 4 × 3 in every step (half the speed), and of a shape that it
// can hold, 6 × 2, it makes 20 instructions for 12 products. These are 18: the third vector of B is an operand in memory.
// Where another thread shares the core the instructions count: 0.80 to 0.85 of the time (Benchmarks/NOTES.md).

// Addresses of A, `a_stride` bytes apart along one direction and an element along the other, and of B.
#define A0 "(%[a])"
#define A1 "(%[a],%[a_stride])"
#define A2 "(%[a],%[a_stride],2)"
#define A3 "(%[a],%[a_stride_3])"
#define B0 "(%[b])"
#define B1 "(%[b],%[b_stride])"
#define B2 "(%[b],%[b_stride],2)"
#define B3 "(%[b],%[b_stride_3])"
#define ELEMENTS(count) #count "*%c[size]"

#define ROW(i, a, b)                                                                   \
  "vbroadcasts" SUFFIX " " a ", %[x]\n\t"                                              \
  "vfmadd231p" SUFFIX " %[b0], %[x], %[sum" #i "0]\n\t"                                \
  "vfmadd231p" SUFFIX " %[b1], %[x], %[sum" #i "1]\n\t"                                \
  "vfmadd231p" SUFFIX " 64" b ", %[x], %[sum" #i "2]\n\t"
#define STEP(b, a0, a1, a2, a3)                                                        \
  "vmovups " b ", %[b0]\n\t"                                                           \
  "vmovups 32" b ", %[b1]\n\t"                                                         \
  ROW(0, a0, b) ROW(1, a1, b) ROW(2, a2, b) ROW(3, a3, b)
// Rows a stride apart, or an element.
#define ROW_MAJOR(k, b) STEP(b, ELEMENTS(k) A0, ELEMENTS(k) A1, ELEMENTS(k) A2, ELEMENTS(k) A3)
#define COLUMN_MAJOR(a, b) STEP(b, ELEMENTS(0) a, ELEMENTS(1) a, ELEMENTS(2) a, ELEMENTS(3) a)

#define ZERO(i)                                                                        \
  "vxorps %[sum" #i "0], %[sum" #i "0], %[sum" #i "0]\n\t"                             \
  "vxorps %[sum" #i "1], %[sum" #i "1], %[sum" #i "1]\n\t"                             \
  "vxorps %[sum" #i "2], %[sum" #i "2], %[sum" #i "2]\n\t"
#define SUMS(i) [sum##i##0] "=&x"(sum[i][0]), [sum##i##1] "=&x"(sum[i][1]), [sum##i##2] "=&x"(sum[i][2])
// Four steps at a time, then one.
#define BLOCK(four, one, skip_four, skip_one)                                          \
  __asm__ volatile(                                                                    \
      ZERO(0) ZERO(1) ZERO(2) ZERO(3)                                                  \
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
      : SUMS(0), SUMS(1), SUMS(2), SUMS(3), [x] "=&x"(x), [b0] "=&x"(b0), [b1] "=&x"(b1), [a] "+&r"(a), [b] "+&r"(b), \
        [fours] "+&r"(fours), [ones] "+&r"(ones)                                       \
      : [a_stride] "r"(a_stride), [a_stride_3] "r"(3 * a_stride), [b_stride] "r"(b_stride),                           \
        [b_stride_3] "r"(3 * b_stride), [size] "i"(sizeof(T))                          \
      : "cc", "memory")

static inline INLINE void NAME(multiply_block)(
    V sum[][PANEL], ptrdiff_t depth, const T *a, ptrdiff_t row_stride, ptrdiff_t column_stride, const T *b,
    ptrdiff_t b_stride) {
  V x, b0, b1;
  ptrdiff_t fours = depth / 4, ones = depth % 4;
  ptrdiff_t a_stride = (column_stride == 1 ? row_stride : column_stride) * (ptrdiff_t)sizeof(T);
  b_stride *= sizeof(T);
  if (column_stride == 1)
    BLOCK(ROW_MAJOR(0, B0) ROW_MAJOR(1, B1) ROW_MAJOR(2, B2) ROW_MAJOR(3, B3), ROW_MAJOR(0, B0),
          "add $" ELEMENTS(4) ", %[a]\n\t", "add $" ELEMENTS(1) ", %[a]\n\t");
  else
    BLOCK(COLUMN_MAJOR(A0, B0) COLUMN_MAJOR(A1, B1) COLUMN_MAJOR(A2, B2) COLUMN_MAJOR(A3, B3), COLUMN_MAJOR(A0, B0),
          "lea (%[a],%[a_stride],4), %[a]\n\t", "add %[a_stride], %[a]\n\t");
}
#undef A0
#undef A1
#undef A2
#undef A3
#undef B0
#undef B1
#undef B2
#undef B3
#undef ELEMENTS
#undef ROW
#undef STEP
#undef ROW_MAJOR
#undef COLUMN_MAJOR
#undef ZERO
#undef SUMS
#undef BLOCK
