#ifndef ATTN_AHEAD_H
#define ATTN_AHEAD_H

#include "CAttentionKernels.h"

// While a product is computed, these functions prefetch into the second-level cache the rows that will be needed after
// it. If possible, lines are prefetched in pairs, spread over the product, because lines that are all requested at once
// hold up the product's own loads until they have arrived.

// Rows handed out to the blocks of a product. There are at least as many blocks as rows.
typedef struct attn_spread {
  const char *row;         // the next one
  ptrdiff_t stride, pitch; // bytes from row to row and from one prefetch to the next
  ptrdiff_t row_count, block_count, sum;
} attn_spread;

// x / y in 32 bits, because a division of 64 bits takes up to 95 cycles (Intel, model 85; Benchmarks/NOTES.md). Numbers
// of more than 32 bits give a wrong address, but a wrong address for a prefetch does no harm.
static inline ptrdiff_t attn_quotient(ptrdiff_t x, ptrdiff_t y) { return (ptrdiff_t)((uint32_t)x / (uint32_t)y); }

// Spreads `rows` over the blocks, each of which can prefetch `steps` pairs of lines, and sets the base of `rows` to
// NULL. Rows without gaps between them are first divided anew, into one part for each block. If there are more rows
// than blocks, `rows` stays as it is, and nothing is spread.
static inline attn_spread attn_spread_rows(attn_ahead *rows, ptrdiff_t block_count, ptrdiff_t steps) {
  attn_ahead part = *rows;
  if (!part.base || block_count == 0 || steps == 0) return (attn_spread){0};
  if (part.stride == part.byte_count) {
    part.stride = part.byte_count = attn_quotient(part.row_count * part.byte_count, block_count);
    part.row_count = block_count;
  }
  if (part.row_count > block_count) return (attn_spread){0};
  rows->base = NULL;
  // A pair of lines has 128 bytes.
  const ptrdiff_t most = 128, pitch = most * steps <= part.byte_count ? most : attn_quotient(part.byte_count + steps - 1, steps);
  return (attn_spread){part.base, part.stride, pitch, part.row_count, block_count, 0};
}

// Returns the row that the next block prefetches, and sets `pitch` to the bytes from one prefetch to the next. If the
// block has no row, the function returns `hot` and sets `pitch` to 0, so that the block prefetches the same line again
// and again.
static inline const char *attn_take_row(attn_spread *p, const void *hot, ptrdiff_t *pitch) {
  *pitch = 0;
  p->sum += p->row_count;
  if (p->row_count == 0 || p->sum < p->block_count) return hot;
  p->sum -= p->block_count;
  *pitch = p->pitch;
  const char *row = p->row;
  p->row += p->stride;
  return row;
}

// Prefetches a part of `rows` all at once: the part that corresponds to the rows from `first` to `end` of the product's
// `count` rows.
static inline void attn_prefetch_rows(const attn_ahead *rows, ptrdiff_t first, ptrdiff_t end, ptrdiff_t count) {
  const ptrdiff_t row_end = end * rows->row_count / count;
  for (ptrdiff_t row = first * rows->row_count / count; row < row_end; row++)
    for (ptrdiff_t byte = 0; byte < rows->byte_count; byte += 64)
      __builtin_prefetch((const char *)rows->base + row * rows->stride + byte, 0, 2);
}

#endif
