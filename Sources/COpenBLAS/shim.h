#ifndef COPENBLAS_SHIM_H
#define COPENBLAS_SHIM_H

#include <cblas.h>

// If another BLAS is selected as the system's BLAS (Debian's alternatives), <cblas.h> is the header of the reference
// implementation, which does not declare these functions.
char *openblas_get_config(void);
char *openblas_get_corename(void);
int openblas_get_parallel(void);
int openblas_get_num_threads(void);
void openblas_set_num_threads(int count);

#endif
