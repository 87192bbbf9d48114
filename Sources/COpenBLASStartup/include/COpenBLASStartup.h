#ifndef COPENBLAS_STARTUP_H
#define COPENBLAS_STARTUP_H

/// The core whose kernels OpenBLAS had chosen by itself when the process started ("" if unknown).
const char *openblas_startup_core_as_found(void);

/// Why OpenBLAS's choice of kernels was changed or kept, as a text for people.
const char *openblas_startup_decision(void);

/// The thread count of OpenMP: these two functions call omp_get_max_threads and omp_set_num_threads of the OpenMP
/// runtime. If no OpenMP runtime is loaded, the first returns 1 and the second does nothing. Debian's OpenMP variant of
/// OpenBLAS keeps its thread count in the OpenMP runtime, one number for each thread.
int openblas_startup_openmp_get_max_threads(void);
void openblas_startup_openmp_set_num_threads(int count);

#endif
