"""NativeThread: a C thread that runs one Python callable and is made to be joined.

Converts between Python and native_thread.h; the stub beside the package documents the
methods. A running thread owns a reference to its NativeThread, so that the object outlives
the call of its target whoever drops it.
"""

import traceback

from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython cimport final
from libc.errno cimport EALREADY, ENOMEM, errno
from libc.math cimport INFINITY
from libc.stdint cimport int64_t
from libc.string cimport strerror

from deadline cimport deadline_after, deadline_slice
from native_thread cimport *

DEFAULT_STACK_BYTES = 16 * 1024 * 1024
MIN_STACK_BYTES = NATIVE_THREAD_MIN_STACK_BYTES


cdef int raise_for(int status) except -1:
    if status == EALREADY:
        raise RuntimeError("A native thread can be started only once.")
    if status != 0:
        raise RuntimeError(f"The system cannot start a thread: {strerror(status).decode()}.")
    return 0


cdef void run_target(void *argument) noexcept with gil:
    thread = <NativeThread>argument
    Py_DECREF(thread)  # start()'s reference; the local variable holds one of its own
    thread.run()


cdef str describe(error):
    try:
        return "".join(traceback.format_exception(error))
    except Exception:
        return f"{type(error).__name__} (its traceback cannot be formatted)\n"


cdef int report(str name, error) except -1:
    cdef bytes text = f"Exception in native thread {name!r}:\n{describe(error)}".encode(
        "utf-8", "backslashreplace")
    cdef const char *start = text
    cdef size_t num_bytes = len(text)
    with nogil:
        native_thread_report(start, num_bytes)
    return 0


@final
cdef class NativeThread:
    """A C thread running one Python callable, outside threading and gevent."""

    cdef native_thread *thread
    cdef object target
    cdef readonly str name
    cdef readonly object error

    def __cinit__(self, target, str name, Py_ssize_t stack_bytes=DEFAULT_STACK_BYTES):
        if not callable(target):
            raise TypeError(f"target must be callable, not {type(target).__name__}.")
        if stack_bytes < <Py_ssize_t>NATIVE_THREAD_MIN_STACK_BYTES:
            raise ValueError(f"stack_bytes must be at least {MIN_STACK_BYTES}.")
        self.target = target
        self.name = name
        self.thread = native_thread_new(name.encode(), stack_bytes)
        if self.thread is NULL:
            PyErr_SetFromErrno(MemoryError if errno == ENOMEM else OSError)

    def __dealloc__(self):
        native_thread_release(self.thread)

    @property
    def alive(self):
        return native_thread_is_alive(self.thread)

    @property
    def native_id(self):
        return native_thread_id(self.thread) or None

    def start(self):
        Py_INCREF(self)
        cdef int status = native_thread_start(self.thread, run_target, <void *>self)
        if status != 0:
            Py_DECREF(self)
            raise_for(status)

    def join(self, timeout_s=None):
        cdef int64_t deadline_ns = deadline_after(INFINITY if timeout_s is None else timeout_s)
        cdef int64_t slice_ns
        cdef bint ended
        if not native_thread_is_started(self.thread):
            raise RuntimeError("A native thread must be started before it is joined.")
        if native_thread_is_current(self.thread):
            raise RuntimeError("A native thread cannot join itself.")
        while True:
            slice_ns = deadline_slice(deadline_ns)
            with nogil:
                ended = native_thread_join(self.thread, slice_ns)
            if ended or slice_ns == deadline_ns:
                return ended
            PyErr_CheckSignals()

    cdef void run(self) noexcept:
        try:
            self.target()
        except BaseException as error:
            self.error = error
            report(self.name, error)
        finally:
            self.target = None
