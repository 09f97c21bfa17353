# Declarations of native_thread.h; the header says what each function promises.
from libc.stdint cimport int64_t

cdef extern from "native_thread.h" nogil:
    const size_t NATIVE_THREAD_MIN_STACK_BYTES

    ctypedef struct native_thread:
        pass

    ctypedef void (*native_thread_body)(void *argument) noexcept

    native_thread *native_thread_new(const char *name, size_t stack_bytes)
    void native_thread_release(native_thread *thread)
    int native_thread_start(native_thread *thread, native_thread_body body, void *argument)
    bint native_thread_join(native_thread *thread, int64_t deadline_ns)
    bint native_thread_is_started(const native_thread *thread)
    bint native_thread_is_alive(const native_thread *thread)
    bint native_thread_is_current(const native_thread *thread)
    int native_thread_id(const native_thread *thread)
    void native_thread_report(const char *text, size_t num_bytes)
