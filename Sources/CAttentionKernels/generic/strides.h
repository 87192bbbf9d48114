#ifndef ATTN_STRIDES_H
#define ATTN_STRIDES_H

#include <stddef.h>

// A stride in bytes and its odd multiples up to 7. An address of x86 can contain a register times 1, 2, 4 or 8. So a
// load at a multiple of the stride needs no further instruction.
typedef struct attn_strides {
  ptrdiff_t one, three, five, seven;
} attn_strides;

static inline __attribute__((always_inline)) attn_strides attn_strides_of(ptrdiff_t bytes) {
  attn_strides s = {bytes, 3 * bytes, 5 * bytes, 7 * bytes};
  // The empty asm statements keep the multiples in registers. Otherwise the compiler would multiply in every step of a
  // product.
  __asm__("" : "+r"(s.three));
  __asm__("" : "+r"(s.five));
  __asm__("" : "+r"(s.seven));
  return s;
}

// The stride times i, for i from 0 to 8.
static inline __attribute__((always_inline)) ptrdiff_t attn_times(attn_strides s, const int i) {
  switch (i) {
    case 3: return s.three;
    case 5: return s.five;
    case 6: return 2 * s.three;
    case 7: return s.seven;
    default: return i * s.one;
  }
}

#endif
