# A network and its KV cache: from weights to steps.


@final
cdef class Transformer:
    cdef transformer *transformer
    cdef transformer_weights weights
    cdef transformer_layer *layers
    cdef kv_cache cache
    cdef const kernel_ops *ops
    cdef ComputePool pool
    cdef activation_format quantized_rows
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
                  num_threads, max_rows, max_outputs, str activations="int8"):
        if not 1 <= num_threads <= pool.num_threads:
            raise ValueError(f"num_threads must be 1 to {pool.num_threads}, not {num_threads}.")
        self.pool = pool
        self.ops = ops_of(level)
        self.quantized_rows = <activation_format>number_of(
            ACTIVATION_FORMATS, activations
        )
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
        if <size_t>&panels[0] % PANEL_ALIGNMENT != 0:
            raise ValueError(f"{name} must begin at a multiple of {PANEL_ALIGNMENT} bytes.")
        self.borrowed.append(panels)
        result.format = <weight_format>number_of(WEIGHT_FORMATS, section.format)
        result.num_columns = num_columns
        result.depth = depth
        result.panels = &panels[0]
        result.rows = rows_of(result.format, self.quantized_rows)
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
