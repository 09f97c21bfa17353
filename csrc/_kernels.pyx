"""The kernels of the network: weights into panels, a transformer's steps, the sampler.

Converts between Python and the headers in kernels/; the stub beside the package documents it.
"""

from array import array as _new_array
from os import sched_getaffinity as _sched_getaffinity

from cpython cimport array
from cython cimport final
from libc.float cimport FLT_MIN
from libc.stdint cimport INT32_MAX, int32_t, int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_NORESERVE,
    MAP_PRIVATE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from posix.unistd cimport getpid

from kernels cimport *

cdef extern from "sys/mman.h" nogil:
    enum:
        MADV_HUGEPAGE
    int madvise(void *address, size_t length, int advice)

cdef extern from "stdlib.h" nogil:
    void *aligned_alloc(size_t alignment, size_t size)

cdef dict WEIGHT_FORMATS = {
    "f32": <int>WEIGHTS_F32,
    "bf16": <int>WEIGHTS_BF16,
    "q8": <int>WEIGHTS_Q8,
    "q4": <int>WEIGHTS_Q4,
}
cdef dict EMBEDDING_FORMATS = {
    "f32": <int>EMBEDDING_F32,
    "bf16": <int>EMBEDDING_BF16,
    "Q8_0": <int>EMBEDDING_Q8_0,
}
cdef dict KV_FORMATS = {"f32": <int>KV_F32, "bf16": <int>KV_BF16, "int8": <int>KV_INT8}

# Bytes that a group of 32 values takes in a checkpoint.
cdef dict STORED_GROUP_BYTES = {"f32": 128, "bf16": 64, "Q8_0": 34, "Q4_0": 18, "Q4_1": 20}

# Kernels round sizes up to whole panels and groups, and the result must be an int32_t.
cdef int64_t MAX_SIZE = INT32_MAX - 31

# The pool keeps the number of a phase's threads in 16 bits (chunk_range.h).
cdef int32_t MAX_THREADS = 0xFFFF

# Keys of one token in all layers: a hundred times those of the largest networks, and still the
# bytes of INT32_MAX blocks of them are a size_t.
cdef int64_t MAX_TOKEN_KEYS = 1 << 24


cdef int number_of(dict formats, str name) except -1:
    if name not in formats:
        raise ValueError(f"{name!r} is not a format: use one of {', '.join(formats)}.")
    return formats[name]


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


# --- CPU levels -----------------------------------------------------------------


def cpu_levels():
    cdef int level
    return tuple(
        cpu_level_name(<cpu_level>level).decode()
        for level in range(<int>cpu_level_best() + 1)
        if kernel_ops_for(<cpu_level>level) is not NULL
    )


cdef const kernel_ops *ops_of(str name) except NULL:
    cdef int level
    for level in range(<int>cpu_level_best() + 1):
        if cpu_level_name(<cpu_level>level).decode() == name:
            if kernel_ops_for(<cpu_level>level) is not NULL:
                return kernel_ops_for(<cpu_level>level)
    raise ValueError(f"There is no CPU level {name!r} here, only {', '.join(cpu_levels())}.")


# --- packing --------------------------------------------------------------------


def packed_nbytes(str format, num_columns, depth):
    cdef weight_format into = <weight_format>number_of(WEIGHT_FORMATS, format)
    cdef size_t num_panels = matrix_num_panels(size_of(num_columns, "num_columns"))
    return num_panels * matrix_panel_bytes(into, width_of(depth, "depth"))


def pack(str format, source, num_columns, depth, out, *, str stored="f32",
         int32_t panel_stride=1):
    cdef weight_format into = <weight_format>number_of(WEIGHT_FORMATS, format)
    cdef unsigned char[::1] panels = memoryview(out).cast("B")
    cdef int32_t columns = size_of(num_columns, "num_columns")
    cdef int32_t inputs = width_of(depth, "depth")
    cdef size_t num_groups = <size_t>columns * <size_t>(inputs // GROUP_SIZE)
    cdef size_t num_panels = matrix_num_panels(columns)
    cdef const unsigned char[::1] values = bytes_of(
        source, num_groups * <size_t>number_of(STORED_GROUP_BYTES, stored), "source"
    )
    if panel_stride < 1:
        raise ValueError(f"panel_stride must be at least 1, not {panel_stride}.")
    num_panels = (num_panels - 1) * <size_t>panel_stride + 1
    if <size_t>panels.shape[0] // matrix_panel_bytes(into, inputs) < num_panels:
        raise ValueError(f"out has {panels.shape[0]} bytes, which is too few.")
    if stored == "f32":
        pack_values(into, <const float *>&values[0], columns, inputs, panel_stride, &panels[0])
    else:
        pack_codes(stored, into, &values[0], columns, inputs, panel_stride, &panels[0])


cdef void pack_values(weight_format into, const float *values, int32_t num_columns,
                      int32_t depth, int32_t panel_stride, void *panels) noexcept:
    with nogil:
        if into == WEIGHTS_F32:
            pack_f32(values, num_columns, depth, panel_stride, panels)
        elif into == WEIGHTS_BF16:
            pack_bf16(values, num_columns, depth, panel_stride, panels)
        elif into == WEIGHTS_Q8:
            pack_q8(values, num_columns, depth, panel_stride, panels)
        else:
            pack_q4(values, num_columns, depth, panel_stride, panels)


cdef void pack_codes(str stored, weight_format into, const void *codes, int32_t num_columns,
                     int32_t depth, int32_t panel_stride, void *panels) except *:
    cdef pack_blocks *packer
    if stored == "Q8_0" and into == WEIGHTS_Q8:
        packer = pack_q8_0
    elif stored == "Q4_0" and into == WEIGHTS_Q4:
        packer = pack_q4_0
    elif stored == "Q4_1" and into == WEIGHTS_Q4:
        packer = pack_q4_1
    else:
        raise ValueError(f"{stored} codes cannot be taken over into this format.")
    with nogil:
        packer(codes, num_columns, depth, panel_stride, panels)


# --- the compute pool -----------------------------------------------------------


@final
cdef class ComputePool:
    cdef compute_pool *pool
    cdef int pid

    def __cinit__(self, int32_t num_threads):
        self.pid = getpid()
        if not 1 <= num_threads <= MAX_THREADS:
            raise ValueError(f"num_threads must be 1 to {MAX_THREADS}, not {num_threads}.")
        self.pool = compute_pool_new(num_threads)
        if self.pool is NULL:
            raise MemoryError("The threads of the compute pool could not be started.")

    def __dealloc__(self):
        if self.pid == getpid():  # a forked child has the pool's memory, but not its threads
            with nogil:  # it waits for the helpers to end
                compute_pool_free(self.pool)

    @property
    def num_threads(self):
        return compute_pool_num_threads(self.pool)


cdef ComputePool process_pool = None


def shared_compute_pool():
    global process_pool
    if process_pool is None or process_pool.pid != getpid():
        process_pool = ComputePool(len(_sched_getaffinity(0)))
    return process_pool


# --- shapes ---------------------------------------------------------------------


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


# --- the KV cache ---------------------------------------------------------------


def kv_block_nbytes(str format, shape):
    cdef transformer_shape sizes = shape_of(shape)
    cdef kv_cache cache = kv_cache_of(format, &sizes, 0)
    return 2 * kv_block_bytes_in_all(&cache)


cdef kv_cache kv_cache_of(str format, const transformer_shape *shape, int32_t num_blocks) except *:
    """A cache without memory."""
    cdef kv_cache cache
    cache.format = <kv_format>number_of(KV_FORMATS, format)
    cache.num_layers = shape.num_layers
    cache.num_heads = shape.num_kv_heads
    cache.head_dim = shape.head_dim
    cache.num_blocks = num_blocks
    cache.keys = NULL
    cache.values = NULL
    return cache


cdef void map_kv_cache(kv_cache *cache) except *:
    """Give a cache memory for keys and for values, or for neither.

    Mapped, it is zero, and used only from the first write on: by segments (kv_cache.h).
    """
    cdef size_t length = kv_cache_bytes(cache)
    cache.keys = map_memory(length)
    try:
        cache.values = map_memory(length)
    except MemoryError:
        munmap(cache.keys, length)
        raise


cdef void *map_memory(size_t length) except NULL:
    cdef void *memory = mmap(
        NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0
    )
    if memory is MAP_FAILED:
        raise MemoryError(f"There is no address space for {length} bytes of KV cache.")
    # Large pages are read a quarter faster; that a kernel may have none is no error.
    madvise(memory, length, MADV_HUGEPAGE)
    return memory


# --- the transformer ------------------------------------------------------------


@final
cdef class Transformer:
    cdef transformer *transformer
    cdef transformer_weights weights
    cdef transformer_layer *layers
    cdef kv_cache cache
    cdef const kernel_ops *ops
    cdef ComputePool pool
    cdef int32_t num_threads
    cdef int32_t max_rows
    cdef int32_t max_outputs
    cdef int32_t max_positions
    # A step, as C wants it.
    cdef int32_t *token_ids
    cdef step_span *spans
    cdef int32_t *output_rows
    cdef sampling *samplings
    cdef sampled *chosen
    cdef list borrowed  # what the weights point into
    cdef list kept  # what the step in progress points into

    def __cinit__(self, shape, sections, ComputePool pool not None, *, str level,
                  num_threads, max_rows, max_outputs):
        if not 1 <= num_threads <= pool.num_threads:
            raise ValueError(f"num_threads must be 1 to {pool.num_threads}, not {num_threads}.")
        self.pool = pool
        self.ops = ops_of(level)
        self.num_threads = num_threads
        self.max_rows = size_of(max_rows, "max_rows")
        self.max_outputs = size_of(max_outputs, "max_outputs", 0)
        self.borrowed = []
        self.kept = []
        self.weights.shape = shape_of(shape)
        self.read_weights(shape, sections)
        self.allocate()

    cdef void read_weights(self, shape, sections) except *:
        cdef transformer_shape *sizes = &self.weights.shape
        cdef int layer
        self.layers = <transformer_layer *>calloc(sizes.num_layers, sizeof(transformer_layer))
        if self.layers is NULL:
            raise MemoryError()
        self.weights.layers = self.layers
        for layer in range(sizes.num_layers):
            self.read_layer(&self.layers[layer], f"layers.{layer}.", sections)
        self.weights.final_norm = self.floats(sections, "final_norm", sizes.hidden_size)
        self.weights.head = self.matrix_of(sections, "head", sizes.vocab_size, sizes.hidden_size)
        self.read_embedding(sections["embedding"])
        frequencies = _new_array("f", shape.rotary_frequencies)
        self.weights.rotary_frequencies = self.borrow_floats(
            frequencies, sizes.head_dim // 2, "rotary_frequencies"
        )

    cdef void read_layer(self, transformer_layer *layer, str prefix, sections) except *:
        cdef transformer_shape *sizes = &self.weights.shape
        cdef int32_t hidden = sizes.hidden_size
        cdef int32_t inner = sizes.intermediate_size
        cdef int32_t queries = sizes.num_heads * sizes.head_dim
        cdef int32_t qkv = queries + 2 * sizes.num_kv_heads * sizes.head_dim
        layer.attention_norm = self.floats(sections, prefix + "attention_norm", hidden)
        layer.qkv = self.matrix_of(sections, prefix + "qkv", qkv, hidden)
        layer.qkv_bias = self.optional_floats(sections, prefix + "qkv_bias", qkv)
        layer.query_norm = self.optional_floats(sections, prefix + "query_norm", sizes.head_dim)
        layer.key_norm = self.optional_floats(sections, prefix + "key_norm", sizes.head_dim)
        layer.output = self.matrix_of(sections, prefix + "output", hidden, queries)
        layer.output_bias = self.optional_floats(sections, prefix + "output_bias", hidden)
        layer.mlp_norm = self.floats(sections, prefix + "mlp_norm", hidden)
        layer.gate_up = self.matrix_of(sections, prefix + "gate_up", 2 * inner, hidden)
        layer.gate_bias = self.optional_floats(sections, prefix + "gate_bias", inner)
        layer.up_bias = self.optional_floats(sections, prefix + "up_bias", inner)
        layer.down = self.matrix_of(sections, prefix + "down", hidden, inner)
        layer.down_bias = self.optional_floats(sections, prefix + "down_bias", hidden)

    cdef void read_embedding(self, section) except *:
        cdef transformer_shape *sizes = &self.weights.shape
        cdef size_t row_groups = <size_t>(sizes.hidden_size // GROUP_SIZE)
        cdef size_t row_bytes = row_groups * <size_t>number_of(STORED_GROUP_BYTES, section.format)
        cdef const unsigned char[::1] rows = bytes_of(
            section.data, <size_t>sizes.vocab_size * row_bytes, "embedding"
        )
        self.borrowed.append(rows)
        self.weights.embedding_format = <embedding_format>number_of(
            EMBEDDING_FORMATS, section.format
        )
        self.weights.embedding = &rows[0]

    cdef matrix matrix_of(self, sections, str name, int32_t num_columns, int32_t depth) except *:
        cdef matrix result
        section = sections[name]
        cdef const unsigned char[::1] panels = bytes_of(
            section.data, packed_nbytes(section.format, num_columns, depth), name
        )
        self.borrowed.append(panels)
        result.format = <weight_format>number_of(WEIGHT_FORMATS, section.format)
        result.num_columns = num_columns
        result.depth = depth
        result.panels = &panels[0]
        return result

    cdef const float *floats(self, sections, str name, int32_t count) except NULL:
        return self.borrow_floats(sections[name].data, count, name)

    cdef const float *optional_floats(self, sections, str name, int32_t count) except? NULL:
        return self.floats(sections, name, count) if name in sections else NULL

    cdef const float *borrow_floats(self, buffer, int32_t count, str name) except NULL:
        cdef const unsigned char[::1] values = bytes_of(buffer, count * sizeof(float), name)
        self.borrowed.append(values)
        return <const float *>&values[0]

    cdef void allocate(self) except *:
        self.token_ids = <int32_t *>calloc(self.max_rows, sizeof(int32_t))
        self.spans = <step_span *>calloc(self.max_rows, sizeof(step_span))
        self.output_rows = <int32_t *>calloc(self.max_outputs, sizeof(int32_t))
        self.samplings = <sampling *>calloc(self.max_outputs, sizeof(sampling))
        self.chosen = <sampled *>calloc(self.max_outputs, sizeof(sampled))
        self.transformer = transformer_new(
            &self.weights, self.ops, self.num_threads, self.max_rows, self.max_outputs
        )
        if (
            self.token_ids is NULL
            or self.spans is NULL
            or self.output_rows is NULL
            or self.samplings is NULL
            or self.chosen is NULL
            or self.transformer is NULL
        ):
            raise MemoryError()

    def __dealloc__(self):
        transformer_free(self.transformer)
        free(self.layers)
        free(self.token_ids)
        free(self.spans)
        free(self.output_rows)
        free(self.samplings)
        free(self.chosen)
        self.free_kv_cache()

    # --- KV cache ---

    def allocate_kv_cache(self, str format, int32_t num_blocks):
        cdef kv_cache cache
        if self.cache.keys is not NULL:
            raise RuntimeError("The KV cache is allocated already.")
        if num_blocks < 1:
            raise ValueError(f"num_blocks must be at least 1, not {num_blocks}.")
        cache = kv_cache_of(format, &self.weights.shape, num_blocks)
        map_kv_cache(&cache)
        self.cache = cache

    cdef void free_kv_cache(self) noexcept:
        if self.cache.keys is not NULL:
            munmap(self.cache.keys, kv_cache_bytes(&self.cache))
        if self.cache.values is not NULL:
            munmap(self.cache.values, kv_cache_bytes(&self.cache))

    def copy_kv_block(self, int32_t source, int32_t destination):
        cdef int32_t layer, head
        cdef size_t length = kv_block_bytes(self.cache.format, self.cache.head_dim)
        cdef size_t start, end
        self.check_block(source)
        self.check_block(destination)
        for layer in range(self.cache.num_layers):
            for head in range(self.cache.num_heads):
                start = kv_block_offset(&self.cache, layer, head, source)
                end = kv_block_offset(&self.cache, layer, head, destination)
                memcpy(<char *>self.cache.keys + end, <char *>self.cache.keys + start, length)
                memcpy(<char *>self.cache.values + end, <char *>self.cache.values + start, length)

    cdef int check_block(self, int32_t block) except -1:
        if not 0 <= block < self.cache.num_blocks:
            raise ValueError(f"Block {block} is not one of {self.cache.num_blocks}.")
        return 0

    # --- steps ---

    def run(self, work):
        cdef step this = self.gather(work)
        with nogil:
            self.begin()
            transformer_forward(self.transformer, self.pool.pool, &self.cache, &this)
            transformer_sample(
                self.transformer, self.pool.pool, this.num_outputs, self.samplings, self.chosen
            )
            compute_pool_release(self.pool.pool)
        self.kept.clear()
        return [as_token(self.chosen[i]) for i in range(this.num_outputs)]

    def forward(self, work, float[:, ::1] logits not None):
        cdef step this = self.gather(work)
        cdef int32_t output
        cdef int32_t vocab_size = self.weights.shape.vocab_size
        if logits.shape[0] != this.num_outputs or logits.shape[1] != vocab_size:
            raise ValueError(f"logits must have the shape [{this.num_outputs}, {vocab_size}].")
        with nogil:
            self.begin()
            transformer_forward(self.transformer, self.pool.pool, &self.cache, &this)
            compute_pool_release(self.pool.pool)
            for output in range(this.num_outputs):
                memcpy(
                    &logits[output, 0],
                    transformer_logits(self.transformer, output),
                    vocab_size * sizeof(float),
                )
        self.kept.clear()

    cdef void begin(self) noexcept nogil:
        compute_pool_acquire(self.pool.pool)
        compute_pool_limit(self.pool.pool, self.num_threads)

    cdef step gather(self, work) except *:
        """The work of all sequences as one step."""
        cdef step result
        cdef int32_t num_spans = 0
        self.kept.clear()
        result.num_rows = 0
        result.num_outputs = 0
        for each in work:
            self.spans[num_spans] = self.gather_span(&result, each)
            num_spans += 1
        if result.num_rows == 0:
            raise ValueError("A step needs rows.")
        result.num_spans = num_spans
        result.token_ids = self.token_ids
        result.spans = self.spans
        result.output_rows = self.output_rows
        return result

    cdef step_span gather_span(self, step *this, each) except *:
        cdef array.array token_ids = self.numbers(each.token_ids)
        cdef array.array block_table = self.numbers(each.block_table)
        cdef tuple samples = tuple(each.samples)
        cdef step_span span
        cdef int32_t i
        span.first_position = each.start_position
        self.check_room(this, len(token_ids), len(samples))
        span.first_row = this.num_rows
        span.num_rows = len(token_ids)
        span.block_table = <const int32_t *>block_table.data.as_ints
        self.check_blocks(block_table, &span)
        for i in range(span.num_rows):
            if not 0 <= token_ids.data.as_ints[i] < self.weights.shape.vocab_size:
                raise ValueError(f"Token {token_ids.data.as_ints[i]} is not in the vocabulary.")
            self.token_ids[span.first_row + i] = token_ids.data.as_ints[i]
        this.num_rows += span.num_rows
        self.gather_samples(this, samples)
        return span

    cdef void gather_samples(self, step *this, tuple samples) except *:
        """How to choose the tokens after the last rows of the step so far."""
        cdef int32_t row = this.num_rows - <int32_t>len(samples)
        for each in samples:
            self.output_rows[this.num_outputs] = row
            self.kept.append(read_sampling(
                &self.samplings[this.num_outputs], each, self.weights.shape.vocab_size
            ))
            this.num_outputs += 1
            row += 1

    cdef void check_room(self, const step *this, Py_ssize_t num_rows,
                         Py_ssize_t num_samples) except *:
        if num_rows < 1 or num_samples > num_rows:
            raise ValueError("A sequence needs rows, and at most as many samples.")
        if num_rows > self.max_rows - this.num_rows:
            raise ValueError(f"A step may have {self.max_rows} rows.")
        if num_samples > self.max_outputs - this.num_outputs:
            raise ValueError(f"A step may have {self.max_outputs} samples.")

    cdef void check_blocks(self, array.array block_table, const step_span *span) except *:
        cdef int64_t end_position = <int64_t>span.first_position + span.num_rows
        cdef int64_t i, num_blocks = (end_position + KV_BLOCK_TOKENS - 1) // KV_BLOCK_TOKENS
        if span.first_position < 0:
            raise ValueError(f"A position cannot be {span.first_position}.")
        if len(block_table) < num_blocks:
            raise ValueError(f"{len(block_table)} blocks do not cover {end_position} positions.")
        for i in range(num_blocks):
            self.check_block(block_table.data.as_ints[i])

    cdef array.array numbers(self, values):
        """Values as an array of int, kept until the step has been made."""
        if not isinstance(values, array.array) or (<array.array>values).typecode != "i":
            values = _new_array("i", values)
        self.kept.append(values)
        return values


# --- sampling -------------------------------------------------------------------


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
