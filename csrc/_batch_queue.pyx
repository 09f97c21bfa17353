"""BatchQueue: the bounded priority queue of requests that wait for a seat in an engine.

Converts between Python and batch_queue.h; the stub beside the package documents the methods.
The queue owns one reference to each item, from put() until the item is handed out.
"""

from cpython.exc cimport PyErr_CheckSignals, PyErr_SetFromErrno
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from cython cimport final
from libc.errno cimport ENOMEM, errno
from libc.math cimport INFINITY
from libc.stdint cimport int64_t, uint64_t

from batch_queue cimport *
from deadline cimport deadline_after, deadline_slice

NUM_CLASSES = BATCH_QUEUE_NUM_CLASSES
MAX_CAPACITY = BATCH_QUEUE_MAX_CAPACITY


class QueueFull(Exception):
    """The queue holds as many items as it may."""


class QueueClosed(Exception):
    """The queue takes no more items."""


cdef int raise_for(batch_queue_status status) except -1:
    if status == BATCH_QUEUE_FULL:
        raise QueueFull("The queue is full: retry when an item has left it.")
    if status == BATCH_QUEUE_CLOSED:
        raise QueueClosed("The queue is closed and takes no more items.")
    return 0


cdef unsigned checked_class(int priority) except? 0:
    if not 0 <= priority < <int>BATCH_QUEUE_NUM_CLASSES:
        raise ValueError(f"priority must be from 0 to {NUM_CLASSES - 1}, not {priority}.")
    return priority


cdef PyObject **new_buffer(size_t num_items) except NULL:
    cdef void *buffer = PyMem_Malloc(num_items * sizeof(PyObject *))
    if buffer is NULL:
        raise MemoryError()
    return <PyObject **>buffer


cdef object hand_out(PyObject *owned):
    """Turn the queue's own reference into the caller's."""
    item = <object>owned
    Py_DECREF(item)
    return item


cdef list hand_out_all(PyObject **owned, size_t num_items):
    """Turn the queue's own references into a list's; without memory for it, drop them."""
    cdef size_t i
    try:
        return [<object>owned[i] for i in range(num_items)]
    finally:
        for i in range(num_items):
            Py_DECREF(<object>owned[i])


@final
cdef class BatchQueue:
    """Bounded min-heap on (class, 64-bit tag), first in first out among equals."""

    cdef batch_queue *queue

    def __cinit__(self, Py_ssize_t capacity):
        if not 1 <= capacity <= <Py_ssize_t>BATCH_QUEUE_MAX_CAPACITY:
            raise ValueError(f"capacity must be from 1 to {MAX_CAPACITY}, not {capacity}.")
        self.queue = batch_queue_new(capacity)
        if self.queue is NULL:
            PyErr_SetFromErrno(MemoryError if errno == ENOMEM else OSError)

    def __dealloc__(self):
        cdef void *item
        cdef size_t num_taken
        if self.queue is NULL:
            return
        while batch_queue_take(self.queue, &item, 1, 0, &num_taken) == BATCH_QUEUE_HAS_ITEMS:
            Py_DECREF(<object>item)
        batch_queue_free(self.queue)

    def __len__(self):
        return batch_queue_length(self.queue)

    @property
    def capacity(self):
        return batch_queue_capacity(self.queue)

    @property
    def closed(self):
        return batch_queue_is_closed(self.queue)

    def count(self, int priority):
        return batch_queue_count(self.queue, checked_class(priority))

    def position(self, uint64_t handle):
        cdef size_t num_ahead
        if batch_queue_position(self.queue, handle, &num_ahead):
            return num_ahead
        return None

    def put(self, object item, int priority, uint64_t tag):
        cdef uint64_t handle = 0
        cdef unsigned item_class = checked_class(priority)
        Py_INCREF(item)
        cdef batch_queue_status status = batch_queue_put(
            self.queue, <void *>item, item_class, tag, &handle)
        if status != BATCH_QUEUE_OK:
            Py_DECREF(item)
            raise_for(status)
        return handle

    def take(self, Py_ssize_t max_items, timeout_s=0.0):
        cdef int64_t deadline_ns = deadline_after(INFINITY if timeout_s is None else timeout_s)
        cdef size_t num_taken
        if max_items < 0:
            raise ValueError(f"max_items must not be negative, not {max_items}.")
        cdef size_t limit = min(<size_t>max_items, batch_queue_capacity(self.queue))
        cdef PyObject **items = new_buffer(limit)
        try:
            num_taken = self.wait_and_take(items, limit, deadline_ns)
            return hand_out_all(items, num_taken)
        finally:
            PyMem_Free(items)

    cdef Py_ssize_t wait_and_take(
        self, PyObject **items, size_t limit, int64_t deadline_ns) except -1:
        """Wait as take() does, with a look at pending signals after each slice."""
        cdef batch_queue_wake wake
        cdef size_t num_taken
        cdef int64_t slice_ns
        while True:
            slice_ns = deadline_slice(deadline_ns)
            with nogil:
                wake = batch_queue_take(self.queue, <void **>items, limit, slice_ns, &num_taken)
            if wake != BATCH_QUEUE_TIMED_OUT or slice_ns == deadline_ns:
                return num_taken
            PyErr_CheckSignals()

    def remove(self, uint64_t handle):
        cdef void *item = batch_queue_remove(self.queue, handle)
        return None if item is NULL else hand_out(<PyObject *>item)

    def kick(self):
        batch_queue_kick(self.queue)

    def close(self):
        cdef PyObject **items = new_buffer(batch_queue_capacity(self.queue))
        try:
            return hand_out_all(items, batch_queue_close(self.queue, <void **>items))
        finally:
            PyMem_Free(items)

    def check_integrity(self):
        if not batch_queue_check_integrity(self.queue):
            raise AssertionError("The queue's heap, slots and counts do not agree.")
