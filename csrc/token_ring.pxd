# Declarations of token_ring.h; the header says what each function promises.
from libc.stdint cimport int32_t, int64_t, uint16_t, uint64_t

cdef extern from "token_ring.h" nogil:
    const size_t TOKEN_RING_MAX_CAPACITY
    const uint16_t TOKEN_FLAG_NO_TEXT
    const uint16_t TOKEN_FLAG_LAST

    ctypedef struct token_ring:
        pass

    ctypedef struct token_record:
        double logprob
        int32_t token_id
        uint16_t index
        uint16_t flags

    ctypedef enum token_state:
        TOKEN_OPEN
        TOKEN_STOP
        TOKEN_LENGTH
        TOKEN_CANCELLED
        TOKEN_DEADLINE
        TOKEN_ERROR

    token_ring *token_ring_new(size_t capacity)
    token_ring *token_ring_retain(token_ring *ring)
    void token_ring_release(token_ring *ring)

    bint token_ring_push(token_ring *ring, const token_record *record)
    size_t token_ring_free_space(const token_ring *ring)
    uint64_t token_ring_reader_activity(const token_ring *ring)
    bint token_ring_mark_stalled(token_ring *ring)

    size_t token_ring_pop(token_ring *ring, token_record *records, size_t max_records)
    bint token_ring_take_stalled(token_ring *ring)
    bint token_ring_request_cancel(token_ring *ring, token_state wish)

    bint token_ring_finish(token_ring *ring, token_state state)
    token_state token_ring_state(const token_ring *ring)
    void token_ring_renew(token_ring *ring)
    token_state token_ring_cancel_state(const token_ring *ring)
    size_t token_ring_length(const token_ring *ring)
    bint token_ring_is_stalled(const token_ring *ring)
    int64_t token_ring_stalled_ns(const token_ring *ring)
    size_t token_ring_capacity(const token_ring *ring)
