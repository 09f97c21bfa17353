# What the kernels are given: formats by their names, sizes and buffers, checked.

cdef dict WEIGHT_FORMATS = {
    "f32": <int>WEIGHTS_F32,
    "bf16": <int>WEIGHTS_BF16,
    "q8": <int>WEIGHTS_Q8,
    "q4": <int>WEIGHTS_Q4,
}
# What quantised weights are multiplied with.
cdef dict ACTIVATION_FORMATS = {"bf16": <int>ACTIVATIONS_BF16, "int8": <int>ACTIVATIONS_Q8}
cdef dict EMBEDDING_FORMATS = {
    "f32": <int>EMBEDDING_F32,
    "bf16": <int>EMBEDDING_BF16,
    "Q8_0": <int>EMBEDDING_Q8_0,
}

# Bytes that a group of 32 values takes in a checkpoint.
cdef dict STORED_GROUP_BYTES = {"f32": 128, "bf16": 64, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20}

# Kernels round sizes up to whole panels and groups, and the result must be an int32_t.
cdef int64_t MAX_SIZE = INT32_MAX - 31


cdef int number_of(dict formats, str name) except -1:
    if name not in formats:
        raise ValueError(f"{name!r} is not a format: use one of {', '.join(formats)}.")
    return formats[name]


cdef activation_format rows_of(weight_format weights, activation_format quantized_rows) noexcept:
    """What weights are multiplied with: floats with floats of their own kind."""
    if weights == WEIGHTS_F32:
        return ACTIVATIONS_F32
    return ACTIVATIONS_BF16 if weights == WEIGHTS_BF16 else quantized_rows


cdef const unsigned char[::1] bytes_of(object buffer, size_t expected, str name):
    """A buffer as bytes, once it is known to have as many as it must."""
    cdef const unsigned char[::1] view = memoryview(buffer).cast("B")
    if <size_t>view.shape[0] != expected:
        raise ValueError(f"{name} has {view.shape[0]} bytes, but {expected} are needed.")
    return view


cdef int32_t size_of(object value, str name, int32_t least=1) except -1:
    if not least <= value <= MAX_SIZE:
        raise ValueError(f"{name} must be {least} to {MAX_SIZE}, not {value}.")
    return value


cdef int32_t width_of(object value, str name) except -1:
    """A size that consists of whole groups."""
    cdef int32_t width = size_of(value, name)
    if width % GROUP_SIZE != 0:
        raise ValueError(f"{name} must be a multiple of {GROUP_SIZE}, not {width}.")
    return width
