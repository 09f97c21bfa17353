# Declarations of the headers in streams/; each says what its functions promise.
from libc.stdint cimport int32_t, uint64_t

from token_ring cimport token_ring, token_state

cdef extern from "streams/byte_buffer.h" nogil:
    ctypedef struct byte_buffer:
        char *bytes
        size_t size

    void byte_buffer_free(byte_buffer *buffer)

cdef extern from "streams/text_table.h" nogil:
    ctypedef struct text_table:
        pass

    ctypedef enum text_join:
        TEXT_JOIN_STREAM
        TEXT_JOIN_RUN

    text_table *text_table_new(size_t num_tokens, text_join join, size_t num_leading_spaces)
    void text_table_free(text_table *table)
    bint text_table_set(text_table *table, size_t token_id, const void *bytes, size_t num_bytes,
                        bint is_byte_token)

cdef extern from "streams/token_times.h" nogil:
    const int TOKEN_TIMES_NUM_BOUNDS
    const double token_times_bounds_s[]

    ctypedef struct token_times:
        uint64_t num_tokens
        double first_at_s
        double last_at_s
        double gap_sum_s
        uint64_t gap_counts[1]

    void token_times_note(token_times *times, size_t num_tokens, double now_s)

cdef extern from "streams/event_stream.h" nogil:
    ctypedef struct event_stream:
        bint failed
        bint producer_waits
        token_state end

    void event_stream_init(event_stream *stream, token_ring *ring, const text_table *table,
                           token_times *times)
    bint event_stream_set_frame(event_stream *stream, const void *prefix, size_t num_prefix_bytes,
                                const void *suffix, size_t num_suffix_bytes)
    void event_stream_free(event_stream *stream)
    bint event_stream_take(event_stream *stream, double now_s, size_t max_bytes, byte_buffer *out)

cdef extern from "streams/chunked_output.h" nogil:
    ctypedef enum chunked_output_state:
        CHUNKED_OUTPUT_READY
        CHUNKED_OUTPUT_BLOCKED
        CHUNKED_OUTPUT_DEAD

    ctypedef struct chunked_output:
        int fd
        chunked_output_state state
        size_t num_sent
        size_t num_lost

    bint chunked_output_open(chunked_output *output, int fd)
    void chunked_output_close(chunked_output *output)
    void chunked_output_abort(chunked_output *output)
    size_t chunked_output_num_unsent(const chunked_output *output)
    bint chunked_output_write(chunked_output *output, const void *bytes, size_t num_bytes)
    chunked_output_state chunked_output_flush(chunked_output *output)
    chunked_output_state chunked_output_resume(chunked_output *output)
    bint chunked_output_conclude(chunked_output *output)

cdef extern from "streams/stream_drain.h" nogil:
    const unsigned DRAIN_BLOCKED
    const unsigned DRAIN_AGAIN

    ctypedef struct drained_stream:
        event_stream *events
        byte_buffer *collected
        chunked_output output
        unsigned attention

    void drained_stream_pass(drained_stream *stream, double now_s)
    size_t stream_drain_pass(drained_stream **streams, size_t num_streams, double now_s)
