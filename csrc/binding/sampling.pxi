# How a token is chosen: by a step of a transformer, or from logits from elsewhere.

from libc.float cimport FLT_MIN

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)


cdef object read_sampling(sampling *to, row, int32_t vocab_size):
    """Read a SamplingRow; the result must live as long as `to` is used."""
    cdef array.array banned
    params = row.params
    to.temperature = params.temperature
    if params.temperature > 0 and to.temperature < FLT_MIN:
        to.temperature = FLT_MIN  # the conversion must not make it greedy
    to.top_k = 0 if params.top_k is None else min(params.top_k, vocab_size)
    to.top_p = params.top_p
    to.min_p = params.min_p
    to.seed = row.seed & 0xFFFFFFFFFFFFFFFF
    to.output_index = row.output_index
    to.allowed = NULL
    to.banned = NULL
    to.num_banned = 0
    if not row.banned_token_ids:
        return None
    banned = _new_array("i", row.banned_token_ids)
    for token_id in banned:
        if not 0 <= token_id < vocab_size:
            raise ValueError(f"Token {token_id} is not in the vocabulary.")
    to.banned = <const int32_t *>banned.data.as_ints
    to.num_banned = len(banned)
    return banned


cdef object as_token(sampled chosen):
    if chosen.token_id == SAMPLED_NOTHING:
        return None
    return (chosen.token_id, chosen.logprob)


def sample_rows(float[:, ::1] logits not None, rows, *, str level,
                const uint32_t[:, ::1] allowed=None):
    cdef const kernel_ops *ops = ops_of(level)
    cdef tuple given = tuple(rows)
    cdef int32_t num_rows = <int32_t>len(given)
    cdef int32_t vocab_size = <int32_t>logits.shape[1]
    cdef sampling *how = NULL
    cdef sampled *chosen = NULL
    cdef void *scratch = NULL
    cdef int32_t i
    check_logits(logits.shape[0], vocab_size, num_rows)
    if allowed is not None:
        check_masks(allowed.shape[0], allowed.shape[1], num_rows, vocab_size)
    try:
        how = <sampling *>calloc(num_rows + 1, sizeof(sampling))
        chosen = <sampled *>calloc(num_rows + 1, sizeof(sampled))
        scratch = aligned_alloc(64, (sampler_scratch_bytes(vocab_size) + 63) // 64 * 64)
        if how is NULL or chosen is NULL or scratch is NULL:
            raise MemoryError()
        kept = [read_sampling(&how[i], given[i], vocab_size) for i in range(num_rows)]
        if allowed is not None:
            for i in range(num_rows):
                how[i].allowed = &allowed[i, 0]
        with nogil:
            for i in range(num_rows):
                chosen[i] = ops.sample(&logits[i, 0], vocab_size, &how[i], scratch)
        return [as_token(chosen[i]) for i in range(num_rows)]
    finally:
        free(how)
        free(chosen)
        free(scratch)


cdef int check_logits(Py_ssize_t num_logits, int32_t vocab_size, int32_t num_rows) except -1:
    if vocab_size < 1:
        raise ValueError("logits are empty.")
    if num_logits != num_rows:
        raise ValueError(f"logits have {num_logits} rows, but {num_rows} are to be sampled.")
    return 0


cdef int check_masks(Py_ssize_t num_masks, Py_ssize_t num_words, int32_t num_rows,
                     int32_t vocab_size) except -1:
    if num_masks != num_rows:
        raise ValueError(f"`allowed` has {num_masks} rows, but {num_rows} are to be sampled.")
    if num_words * 32 < vocab_size:
        raise ValueError(f"{num_words} words of `allowed` are not {vocab_size} bits.")
    return 0
