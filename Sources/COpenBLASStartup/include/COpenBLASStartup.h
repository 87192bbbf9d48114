#ifndef COPENBLAS_STARTUP_H
#define COPENBLAS_STARTUP_H

/// The core whose kernels OpenBLAS had chosen by itself when the process started ("" where unknown).
const char *openblas_startup_core_as_found(void);

/// Why the choice was changed or left alone, as a sentence for people.
const char *openblas_startup_decision(void);

/// Calls the function `name` of the OpenMP runtime that is loaded, where there is one.
/// Debian's OpenMP variant of OpenBLAS keeps its thread count there, per thread.
int openblas_startup_openmp_get_max_threads(void);
void openblas_startup_openmp_set_num_threads(int count);

#endif
