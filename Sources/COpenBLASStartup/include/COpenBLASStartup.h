#ifndef COPENBLAS_STARTUP_H
#define COPENBLAS_STARTUP_H

/// The core whose kernels OpenBLAS had chosen by itself when the process started ("" if unknown).
const char *openblas_startup_core_as_found(void);

/// Why the choice was changed or kept, as a sentence for people.
const char *openblas_startup_decision(void);

/// These two call the function of that name in the OpenMP runtime that is loaded, if there is one.
/// Debian's OpenMP variant of OpenBLAS keeps its thread count there, per thread.
int openblas_startup_openmp_get_max_threads(void);
void openblas_startup_openmp_set_num_threads(int count);

#endif
