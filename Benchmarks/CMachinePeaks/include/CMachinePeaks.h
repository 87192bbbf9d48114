#ifndef CMACHINE_PEAKS_H
#define CMACHINE_PEAKS_H

#include <stddef.h>

/// Runs about `count` million rounds of independent float32 FMAs in registers, with the widest vectors
/// that this CPU has, and returns the floating-point operations done. The caller takes the time.
double peaks_run_fma(int million_rounds);

/// Reads `count` floats (a multiple of 64) and returns their sum, so that the reading cannot be left out.
float peaks_read(const float *x, size_t count);

#endif
