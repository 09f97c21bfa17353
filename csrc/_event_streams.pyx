"""Token rings to server-sent events and, where a socket is given, on to the client.

Converts between Python and the headers in streams/; the stub beside the package documents it.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.exc cimport PyErr_SetFromErrno
from cython cimport final
from libc.stdlib cimport free, realloc
from libc.string cimport memset
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec

from realtime_serve._token_ring cimport TokenRing
from streams cimport *
from token_ring cimport TOKEN_OPEN

ATTENTION_BLOCKED = <int>DRAIN_BLOCKED
ATTENTION_AGAIN = <int>DRAIN_AGAIN

TOKEN_GAP_BOUNDS_S = tuple([token_times_bounds_s[i] for i in range(TOKEN_TIMES_NUM_BOUNDS)])

cdef enum:
    MAX_TAKE_BYTES = 64 * 1024  # that EventStream.take() makes of a long queue at once


cdef double monotonic_s() noexcept nogil:
    """time.monotonic()."""
    cdef timespec now
    clock_gettime(CLOCK_MONOTONIC, &now)
    return now.tv_sec + now.tv_nsec * 1e-9


cdef int require_memory(bint there_was) except -1:
    if not there_was:
        raise MemoryError("There is no memory for a stream's events.")
    return 0


@final
cdef class TextTable:
    """What each token of a vocabulary adds to a text."""

    cdef text_table *table
    cdef size_t num_tokens

    def __cinit__(self, Py_ssize_t num_tokens, *, bint joins_runs=False,
                  Py_ssize_t num_leading_spaces=0):
        if num_tokens < 0 or num_leading_spaces < 0:
            raise ValueError("num_tokens and num_leading_spaces must not be negative.")
        self.num_tokens = num_tokens
        self.table = text_table_new(num_tokens, TEXT_JOIN_RUN if joins_runs else TEXT_JOIN_STREAM,
                                    num_leading_spaces)
        require_memory(self.table is not NULL)

    def __dealloc__(self):
        text_table_free(self.table)

    def __len__(self):
        return self.num_tokens

    def set_text(self, Py_ssize_t token_id, bytes text not None):
        self.set(token_id, text, False)

    def set_byte(self, Py_ssize_t token_id, unsigned char value):
        self.set(token_id, bytes([value]), True)

    cdef int set(self, Py_ssize_t token_id, bytes text, bint is_byte_token) except -1:
        if not 0 <= token_id < <Py_ssize_t>self.num_tokens:
            raise IndexError(f"token_id must be from 0 to {self.num_tokens - 1}, not {token_id}.")
        return require_memory(text_table_set(self.table, token_id, PyBytes_AS_STRING(text),
                                             PyBytes_GET_SIZE(text), is_byte_token))


@final
cdef class TokenTimes:
    """When the tokens of one stream came."""

    cdef token_times times

    def __cinit__(self):
        memset(&self.times, 0, sizeof(self.times))

    def note(self, Py_ssize_t num_tokens, double now_s):
        if num_tokens < 1:
            raise ValueError(f"num_tokens must be at least 1, not {num_tokens}.")
        token_times_note(&self.times, num_tokens, now_s)

    @property
    def num_tokens(self):
        return self.times.num_tokens

    @property
    def first_at_s(self):
        return None if self.times.num_tokens == 0 else self.times.first_at_s

    @property
    def last_at_s(self):
        return None if self.times.num_tokens == 0 else self.times.last_at_s

    @property
    def gap_sum_s(self):
        return self.times.gap_sum_s

    @property
    def gap_counts(self):
        return [self.times.gap_counts[i] for i in range(TOKEN_TIMES_NUM_BOUNDS + 1)]


@final
cdef class EventStream:
    """The records of one ring as server-sent events."""

    cdef event_stream stream
    cdef byte_buffer taken
    cdef TextTable table
    cdef TokenTimes times

    def __cinit__(self, TokenRing ring not None, TextTable table not None,
                  TokenTimes times not None, bytes prefix not None, bytes suffix not None):
        self.table = table
        self.times = times
        event_stream_init(&self.stream, ring.ring, table.table, &times.times)
        require_memory(event_stream_set_frame(
            &self.stream, PyBytes_AS_STRING(prefix), PyBytes_GET_SIZE(prefix),
            PyBytes_AS_STRING(suffix), PyBytes_GET_SIZE(suffix)))

    def __dealloc__(self):
        event_stream_free(&self.stream)
        byte_buffer_free(&self.taken)

    def take(self):
        self.taken.size = 0
        self.require_sound()
        require_memory(
            event_stream_take(&self.stream, monotonic_s(), MAX_TAKE_BYTES, &self.taken))
        return PyBytes_FromStringAndSize(self.taken.bytes, self.taken.size)

    @property
    def end_state(self):
        return <int>self.stream.end

    def take_starved(self):
        starved, self.stream.producer_waits = self.stream.producer_waits, False
        return starved

    cdef int require_sound(self) except -1:
        return require_memory(not self.stream.failed)


cdef class DrainedStream:
    """A stream that a drain can pass over."""

    cdef drained_stream stream
    cdef EventStream events
    cdef Py_ssize_t position  # in its drain; -1 in none

    cdef void drain_from(self, EventStream events):
        self.events = events
        self.position = -1
        self.stream.output.fd = -1
        if events is not None:
            self.stream.events = &events.stream

    def take(self):
        cdef double now_s = monotonic_s()
        if self.events is None:
            raise TypeError("This stream's events are written, not taken.")
        with nogil:
            drained_stream_pass(&self.stream, now_s)
        self.events.require_sound()
        return b""

    @property
    def end_state(self):
        return <int>TOKEN_OPEN if self.events is None else self.events.end_state

    def take_starved(self):
        return self.events is not None and self.events.take_starved()

    @property
    def attention(self):
        return self.stream.attention


@final
cdef class CollectedStream(DrainedStream):
    """A stream that is kept until it is wanted as a whole."""

    cdef byte_buffer collected

    def __cinit__(self, EventStream events not None):
        self.drain_from(events)
        self.stream.collected = &self.collected

    def __dealloc__(self):
        byte_buffer_free(&self.collected)

    def collected_events(self):
        return PyBytes_FromStringAndSize(self.collected.bytes, self.collected.size)


cdef class SocketStream(DrainedStream):
    """A stream that goes to its client's socket, chunk by chunk."""

    def __cinit__(self, EventStream events, int fd):
        self.drain_from(events)
        if not chunked_output_open(&self.stream.output, fd):
            PyErr_SetFromErrno(OSError)

    def __dealloc__(self):
        chunked_output_close(&self.stream.output)

    def write(self, bytes data not None):
        require_memory(chunked_output_write(&self.stream.output, PyBytes_AS_STRING(data),
                                            PyBytes_GET_SIZE(data)))
        chunked_output_flush(&self.stream.output)

    def resume(self):
        chunked_output_resume(&self.stream.output)

    def fileno(self):
        return self.stream.output.fd

    @property
    def is_blocked(self):
        return self.stream.output.state == CHUNKED_OUTPUT_BLOCKED

    @property
    def is_dead(self):
        return self.stream.output.state == CHUNKED_OUTPUT_DEAD

    @property
    def num_sent_bytes(self):
        return self.stream.output.num_sent

    @property
    def num_unsent_bytes(self):
        return chunked_output_num_unsent(&self.stream.output) + self.stream.output.num_lost

    def conclude(self):
        return chunked_output_conclude(&self.stream.output)

    def abort(self):
        chunked_output_abort(&self.stream.output)

    def close(self):
        if self.position >= 0:
            raise RuntimeError("A stream must leave its drain before it is closed.")
        chunked_output_close(&self.stream.output)


@final
cdef class StreamDrain:
    """The streams of one hub, passed over together."""

    cdef list members
    cdef drained_stream **streams  # of the members, in their order
    cdef size_t capacity
    cdef bint is_running

    def __cinit__(self):
        self.members = []

    def __dealloc__(self):
        free(self.streams)

    def __len__(self):
        return len(self.members)

    def add(self, DrainedStream stream not None):
        self.require_idle()
        if stream.position >= 0 or stream.events is None:
            raise ValueError("The stream is in a drain already, or has no events to take.")
        self.make_room()
        stream.position = len(self.members)
        self.streams[stream.position] = &stream.stream
        self.members.append(stream)

    def discard(self, DrainedStream stream not None):
        cdef DrainedStream last
        self.require_idle()
        if stream.position < 0:
            return
        if stream.position >= len(self.members) or self.members[stream.position] is not stream:
            raise ValueError("The stream is in another drain.")
        last = self.members.pop()
        if last is not stream:
            last.position = stream.position
            self.members[last.position] = last
            self.streams[last.position] = &last.stream
        stream.position = -1

    def run(self):
        cdef size_t num_streams = len(self.members)
        cdef size_t num_attended
        cdef double now_s = monotonic_s()
        cdef DrainedStream member
        self.require_idle()
        self.is_running = True
        with nogil:
            num_attended = stream_drain_pass(self.streams, num_streams, now_s)
        self.is_running = False
        if num_attended == 0:
            return []
        return [member for member in self.members if member.stream.attention != 0]

    cdef int require_idle(self) except -1:
        if self.is_running:
            raise RuntimeError("A drain belongs to its hub's thread.")
        return 0

    cdef int make_room(self) except -1:
        cdef size_t capacity = 16 if self.capacity == 0 else 2 * self.capacity
        if <size_t>len(self.members) < self.capacity:
            return 0
        streams = <drained_stream **>realloc(self.streams, capacity * sizeof(drained_stream *))
        require_memory(streams is not NULL)
        self.streams = streams
        self.capacity = capacity
        return 0
