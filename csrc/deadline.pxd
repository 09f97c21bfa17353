# Declarations of deadline.h; the header says what each function promises.
from libc.stdint cimport int64_t

cdef extern from "deadline.h" nogil:
    int64_t deadline_after(double timeout_s)
    int64_t deadline_slice(int64_t deadline_ns)
