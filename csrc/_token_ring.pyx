"""TokenRing: the bounded ring that carries one stream's tokens to its reader.

Converts between Python and token_ring.h; the stub beside the package documents the methods.
"""

from cython cimport final
from libc.stdint cimport int32_t, uint16_t

from token_ring cimport *

FLAG_NO_TEXT = TOKEN_FLAG_NO_TEXT
FLAG_LAST = TOKEN_FLAG_LAST

OPEN = <int>TOKEN_OPEN
STOP = <int>TOKEN_STOP
LENGTH = <int>TOKEN_LENGTH
CANCELLED = <int>TOKEN_CANCELLED
DEADLINE = <int>TOKEN_DEADLINE
ERROR = <int>TOKEN_ERROR

TokenRecord = tuple[int, int, float, int]

MAX_CAPACITY = TOKEN_RING_MAX_CAPACITY

cdef enum:
    CHUNK_RECORDS = 64  # that pop() copies at once: 1 KiB of stack


cdef token_state terminal_state(int state) except TOKEN_OPEN:
    if not <int>TOKEN_OPEN < state <= <int>TOKEN_ERROR:  # C compares its enums unsigned
        raise ValueError(f"{state} is no terminal state: use one of 1 (STOP) to 5 (ERROR).")
    return <token_state>state


cdef token_state cancel_wish(int state) except TOKEN_OPEN:
    if state not in (TOKEN_CANCELLED, TOKEN_DEADLINE, TOKEN_STOP):
        raise ValueError(f"{state} cannot be asked for: use CANCELLED, DEADLINE or STOP.")
    return <token_state>state


cdef list as_tuples(const token_record *records, size_t num_records):
    cdef size_t i
    return [
        (records[i].token_id, records[i].index, records[i].logprob, records[i].flags)
        for i in range(num_records)
    ]


@final
cdef class TokenRing:
    """Bounded single-producer, single-consumer ring of one stream's tokens."""

    def __cinit__(self, Py_ssize_t capacity):
        if not 1 <= capacity <= <Py_ssize_t>TOKEN_RING_MAX_CAPACITY:
            raise ValueError(f"capacity must be from 1 to {MAX_CAPACITY}, not {capacity}.")
        self.ring = token_ring_new(capacity)
        if self.ring is NULL:
            raise MemoryError()

    def __dealloc__(self):
        token_ring_release(self.ring)

    def __len__(self):
        return token_ring_length(self.ring)

    @property
    def capacity(self):
        return token_ring_capacity(self.ring)

    @property
    def state(self):
        return <int>token_ring_state(self.ring)

    @property
    def cancel_state(self):
        return <int>token_ring_cancel_state(self.ring)

    @property
    def is_stalled(self):
        return <bint>token_ring_is_stalled(self.ring)

    @property
    def stalled_s(self):
        return token_ring_stalled_ns(self.ring) / 1e9

    def push(self, int32_t token_id, uint16_t index=0, double logprob=0.0, uint16_t flags=0):
        cdef token_record record
        record.token_id = token_id
        record.index = index
        record.logprob = logprob
        record.flags = flags
        return token_ring_push(self.ring, &record)

    def free_space(self):
        return token_ring_free_space(self.ring)

    def reader_activity(self):
        return token_ring_reader_activity(self.ring)

    def mark_stalled(self):
        return token_ring_mark_stalled(self.ring)

    def finish(self, int state):
        return token_ring_finish(self.ring, terminal_state(state))

    def renew(self):
        token_ring_renew(self.ring)

    def pop(self, Py_ssize_t max_items=TOKEN_RING_MAX_CAPACITY):
        cdef token_record chunk[CHUNK_RECORDS]
        cdef list popped = []
        cdef size_t num_left
        cdef size_t num_popped
        if max_items < 0:
            raise ValueError(f"max_items must not be negative, not {max_items}.")
        num_left = min(<size_t>max_items, token_ring_length(self.ring))
        while num_left > 0:
            num_popped = token_ring_pop(self.ring, chunk, min(num_left, <size_t>CHUNK_RECORDS))
            popped += as_tuples(chunk, num_popped)
            num_left -= num_popped
        return popped

    def take_stalled(self):
        return token_ring_take_stalled(self.ring)

    def request_cancel(self, int state):
        return token_ring_request_cancel(self.ring, cancel_wish(state))
