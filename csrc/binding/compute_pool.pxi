# The threads that share the phases of a step.

from os import sched_getaffinity as _sched_getaffinity

from posix.unistd cimport getpid

# The pool keeps the number of a phase's threads in 16 bits (chunk_range.h).
cdef int32_t MAX_THREADS = 0xFFFF


@final
cdef class ComputePool:
    cdef compute_pool *pool
    cdef int pid

    def __cinit__(self, int32_t num_threads):
        self.pid = getpid()
        if not 1 <= num_threads <= MAX_THREADS:
            raise ValueError(f"num_threads must be 1 to {MAX_THREADS}, not {num_threads}.")
        self.pool = compute_pool_new(num_threads)
        if self.pool is NULL:
            raise MemoryError("The threads of the compute pool could not be started.")

    def __dealloc__(self):
        if self.pid == getpid():  # a forked child has the pool's memory, but not its threads
            with nogil:  # it waits for the helpers to end
                compute_pool_free(self.pool)

    @property
    def num_threads(self):
        return compute_pool_num_threads(self.pool)


cdef ComputePool process_pool = None


def shared_compute_pool():
    global process_pool
    if process_pool is None or process_pool.pid != getpid():
        process_pool = ComputePool(len(_sched_getaffinity(0)))
    return process_pool
