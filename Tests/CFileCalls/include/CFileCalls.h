// Tells which calls that make a file durable a thread has made.

#ifndef CFileCalls_h
#define CFileCalls_h

/// The calls since `file_calls_begin`, in their order, a letter each: s, a file was synced; d, a folder; r, a file was renamed.
const char *file_calls(void);
/// Forgets what was called, and begins to note the calls of this thread.
void file_calls_begin(void);

#endif
