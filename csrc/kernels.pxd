# Declarations of the headers in kernels/; they say what each function promises.
from libc.stdint cimport int32_t, uint32_t, uint64_t

cdef extern from "kernels/matrix.h" nogil:
    cdef enum weight_format:
        WEIGHTS_F32
        WEIGHTS_BF16
        WEIGHTS_Q8
        WEIGHTS_Q4

    cdef enum activation_format:
        ACTIVATIONS_F32
        ACTIVATIONS_BF16
        ACTIVATIONS_Q8

    cdef struct matrix:
        weight_format format
        int32_t num_columns
        int32_t depth
        const void *panels
        activation_format rows

    const int GROUP_SIZE
    const int PANEL_ALIGNMENT
    int32_t matrix_num_panels(int32_t num_columns)
    size_t matrix_panel_bytes(weight_format format, int32_t depth)

cdef extern from "kernels/pack.h" nogil:
    ctypedef void pack_floats(const float *weights, int32_t num_columns, int32_t depth,
                              int32_t panel_stride, void *panels)
    ctypedef void pack_blocks(const void *blocks, int32_t num_columns, int32_t depth,
                              int32_t panel_stride, void *panels)
    pack_floats pack_f32, pack_bf16, pack_q8, pack_q4
    pack_blocks pack_q8_0, pack_q4_0, pack_q4_1

cdef extern from "kernels/kv_cache.h" nogil:
    cdef enum kv_format:
        KV_F32
        KV_BF16
        KV_INT8

    cdef struct kv_cache:
        kv_format format
        int32_t num_layers
        int32_t num_heads
        int32_t head_dim
        int32_t num_blocks
        void *keys
        void *values

    const int KV_BLOCK_TOKENS
    size_t kv_block_bytes(kv_format format, int32_t head_dim)
    size_t kv_block_bytes_in_all(const kv_cache *cache)
    size_t kv_cache_bytes(const kv_cache *cache)
    size_t kv_block_offset(const kv_cache *cache, int32_t layer, int32_t head, int32_t block)

cdef extern from "kernels/sampler.h" nogil:
    cdef struct sampling:
        float temperature
        int32_t top_k
        float top_p
        float min_p
        uint64_t seed
        uint64_t output_index
        const int32_t *banned
        int32_t num_banned
        const uint32_t *allowed

    cdef struct sampled:
        int32_t token_id
        float logprob

    const int SAMPLED_NOTHING
    ctypedef sampled sample_row(float *logits, int32_t vocab_size, const sampling *sampling,
                                void *scratch)
    size_t sampler_scratch_bytes(int32_t vocab_size)

cdef extern from "kernels/ops.h" nogil:
    cdef enum cpu_level:
        CPU_PORTABLE
        NUM_CPU_LEVELS

    cdef struct kernel_ops:
        sample_row *sample

    cpu_level cpu_level_best()
    const char *cpu_level_name(cpu_level level)
    const kernel_ops *kernel_ops_for(cpu_level level)

cdef extern from "kernels/compute_pool.h" nogil:
    cdef struct compute_pool:
        pass

    compute_pool *compute_pool_new(int32_t num_threads)
    void compute_pool_free(compute_pool *pool)
    int32_t compute_pool_num_threads(const compute_pool *pool)
    void compute_pool_acquire(compute_pool *pool)
    void compute_pool_release(compute_pool *pool)
    void compute_pool_limit(compute_pool *pool, int32_t num_threads)

cdef extern from "kernels/transformer.h" nogil:
    cdef struct transformer_shape:
        int32_t vocab_size
        int32_t hidden_size
        int32_t intermediate_size
        int32_t num_layers
        int32_t num_heads
        int32_t num_kv_heads
        int32_t head_dim
        float rms_norm_epsilon
        float rotary_scale

    cdef struct transformer_layer:
        const float *attention_norm
        matrix qkv
        const float *qkv_bias
        const float *query_norm
        const float *key_norm
        matrix output
        const float *output_bias
        const float *mlp_norm
        matrix gate_up
        const float *gate_bias
        const float *up_bias
        matrix down
        const float *down_bias

    cdef enum embedding_format:
        EMBEDDING_F32
        EMBEDDING_BF16
        EMBEDDING_Q8_0

    cdef struct transformer_weights:
        transformer_shape shape
        const transformer_layer *layers
        embedding_format embedding_format
        const void *embedding
        const float *final_norm
        matrix head
        const float *rotary_frequencies

    cdef struct step_span:
        int32_t first_row
        int32_t num_rows
        int32_t first_position
        const int32_t *block_table

    cdef struct step:
        int32_t num_rows
        const int32_t *token_ids
        int32_t num_spans
        const step_span *spans
        int32_t num_outputs
        const int32_t *output_rows

    cdef struct transformer:
        pass

    transformer *transformer_new(const transformer_weights *weights, const kernel_ops *ops,
                                 int32_t max_threads, int32_t max_rows, int32_t max_outputs)
    void transformer_free(transformer *transformer)
    void transformer_forward(transformer *transformer, compute_pool *pool, const kv_cache *cache,
                             const step *step)
    void transformer_sample(transformer *transformer, compute_pool *pool, int32_t num_outputs,
                            const sampling *samplings, sampled *chosen)
    float *transformer_logits(transformer *transformer, int32_t output)
