// Records the calls by which a thread makes files durable. Only on Linux; elsewhere, nothing is recorded.

#ifndef CFileCalls_h
#define CFileCalls_h

/// The calls of this thread since `file_calls_begin`, in order, as one letter each: s if a file was synced, d if a
/// folder was synced, r if a file was renamed.
const char *file_calls(void);
/// Forgets the calls of this thread that were recorded so far.
void file_calls_begin(void);

#endif
