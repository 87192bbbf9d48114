#ifndef CMACHINE_PEAKS_H
#define CMACHINE_PEAKS_H

#include <stddef.h>

/// Runs `million_rounds` million rounds of independent float32 multiply-adds in registers, and returns the number of
/// floating-point operations. The vectors are the widest of AVX-512, AVX2, SSE2 and NEON that this CPU has. The caller
/// measures the time.
double peaks_run_fma(int million_rounds);

/// Reads `count` floats and returns their sum, so that the compiler cannot leave out the reads. If `count` is not a
/// multiple of 64, up to 63 floats at the end may be left out.
float peaks_read(const float *x, size_t count);

#endif
