#ifndef C_ALLOCATION_COUNTER_H
#define C_ALLOCATION_COUNTER_H

#include <stdbool.h>

/// Whether allocations are counted here: on Linux with glibc.
bool allocation_counter_works(void);
/// Allocations of this process so far, by all threads; growing one counts as one more.
long allocation_count(void);

#endif
