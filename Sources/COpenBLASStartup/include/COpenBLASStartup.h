#ifndef COPENBLAS_STARTUP_H
#define COPENBLAS_STARTUP_H

/// The core (OpenBLAS's name for a CPU model) whose kernels OpenBLAS chose by itself when the process started; "" if
/// unknown.
const char *openblas_startup_core_as_found(void);

/// Why OpenBLAS's choice of kernels was changed or kept, as a text for people.
const char *openblas_startup_decision(void);

/// The thread count of OpenMP. These two functions call omp_get_max_threads and omp_set_num_threads of the OpenMP
/// runtime. If no OpenMP runtime is loaded, the first returns 1 and the second does nothing. Debian's OpenMP variant of
/// OpenBLAS takes its thread count from the OpenMP runtime, which keeps one number for each thread.
int openblas_startup_openmp_get_max_threads(void);
void openblas_startup_openmp_set_num_threads(int count);

#endif
