#ifndef C_ALLOCATION_COUNTER_H
#define C_ALLOCATION_COUNTER_H

#include <stdbool.h>

/// Whether allocations are counted on this system. They are counted on Linux with glibc only.
bool allocation_counter_works(void);
/// The number of allocations of this process so far, by all threads. Each call of `realloc` counts as one more.
long allocation_count(void);

#endif
