# The sizes of a network, checked.

# Keys of one token in all layers: a hundred times those of the largest networks, and still the
# bytes of INT32_MAX blocks of them are a size_t.
cdef int64_t MAX_TOKEN_KEYS = 1 << 24


cdef transformer_shape shape_of(shape) except *:
    """Sizes, once it is known that no product of them that C computes can wrap."""
    cdef transformer_shape to
    to.vocab_size = size_of(shape.vocab_size, "vocab_size")
    to.hidden_size = width_of(shape.hidden_size, "hidden_size")
    to.intermediate_size = width_of(shape.intermediate_size, "intermediate_size")
    to.num_layers = size_of(shape.num_layers, "num_layers")
    to.num_heads = size_of(shape.num_heads, "num_heads")
    to.num_kv_heads = size_of(shape.num_kv_heads, "num_kv_heads")
    to.head_dim = width_of(shape.head_dim, "head_dim")
    to.rms_norm_epsilon = shape.rms_norm_eps
    to.rotary_scale = shape.rotary_scale
    check_heads(&to)
    size_of(2 * <int64_t>to.intermediate_size, "2 * intermediate_size")
    return to


cdef int check_heads(const transformer_shape *shape) except -1:
    cdef int64_t queries = <int64_t>shape.num_heads * shape.head_dim
    cdef int64_t keys = <int64_t>shape.num_kv_heads * shape.head_dim
    if shape.num_heads % shape.num_kv_heads != 0:
        raise ValueError("num_heads must be a multiple of num_kv_heads.")
    size_of(queries + 2 * keys, "The width of queries, keys and values")
    if keys > MAX_TOKEN_KEYS // shape.num_layers:
        raise ValueError(f"The keys of a token may be {MAX_TOKEN_KEYS} numbers in all layers.")
    return 0
