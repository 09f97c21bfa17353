/* transformer: one step of a Llama-like network, from token ids to logits, in one call.
 *
 * A step is a flat list of rows: a token at a position of a sequence. A decoding row, a row of a
 * prompt's chunk and a guess to verify are the same thing; there is no padding. The rows of one
 * sequence stand together, at consecutive positions: a span. Only the rows that want logits go
 * through the head.
 *
 *   embedding -> layers x [ norm -> qkv + rotary + cache write -> attention -> output + residual
 *                           -> norm -> gate, up + SwiGLU -> down + residual ] -> norm -> head
 *
 * The residual stream is float32; what goes into a matrix product is rounded to the activations
 * that the matrix wants (matrix.h). Every arrow is a phase of the compute pool (compute_pool.h),
 * cut into chunks of rows, of heads or of panels. What comes out for a row depends on its
 * sequence only, not on the other rows, the cutting or the number of threads.
 *
 * A transformer belongs to one thread at a time. Nothing here allocates (but transformer_new) or
 * knows Python.
 */
#ifndef REALTIME_SERVE_TRANSFORMER_H
#define REALTIME_SERVE_TRANSFORMER_H

#include <stdint.h>

#include "compute_pool.h"
#include "kv_cache.h"
#include "matrix.h"
#include "ops.h"

/* hidden_size, intermediate_size and head_dim are multiples of 32; num_kv_heads divides
 * num_heads. */
struct transformer_shape {
    int32_t vocab_size;
    int32_t hidden_size;
    int32_t intermediate_size;
    int32_t num_layers;
    int32_t num_heads;
    int32_t num_kv_heads;
    int32_t head_dim;
    float rms_norm_epsilon;
    float rotary_scale; /* factor on sine and cosine; 1 but for YaRN */
};

/* The columns of qkv are the query heads, then the key heads, then the value heads. The panels of
 * gate_up alternate: gate, up, gate, up. Norm weights and biases are float32; NULL is none. */
struct transformer_layer {
    const float *attention_norm;
    struct matrix qkv;
    const float *qkv_bias;
    const float *query_norm; /* of each head, head_dim weights */
    const float *key_norm;
    struct matrix output;
    const float *output_bias;
    const float *mlp_norm;
    struct matrix gate_up;
    const float *gate_bias;
    const float *up_bias;
    struct matrix down;
    const float *down_bias;
};

enum embedding_format { EMBEDDING_F32, EMBEDDING_BF16, EMBEDDING_Q8_0 };

/* Everything here is borrowed and must outlive the transformer. */
struct transformer_weights {
    struct transformer_shape shape;
    const struct transformer_layer *layers;
    enum embedding_format embedding_format;
    const void *embedding; /* [vocab_size][hidden_size]; Q8_0: blocks as in pack.h */
    const float *final_norm;
    struct matrix head;
    const float *rotary_frequencies; /* head_dim / 2 angles a position */
};

/* Rows first_row to first_row + num_rows - 1 are the tokens of one sequence at first_position and
 * after; what stands before is in the cache. */
struct step_span {
    int32_t first_row;
    int32_t num_rows;
    int32_t first_position;
    const int32_t *block_table; /* block of tokens 16 i to 16 i + 15, the step's own included */
};

/* The spans cover all rows, in order. */
struct step {
    int32_t num_rows; /* at most max_rows */
    const int32_t *token_ids;
    int32_t num_spans;
    const struct step_span *spans;
    int32_t num_outputs; /* at most max_outputs */
    const int32_t *output_rows;
};

struct transformer;

/* Buffers for steps of at most max_rows rows, max_outputs of which want logits. NULL if there is
 * no memory. */
struct transformer *transformer_new(const struct transformer_weights *weights,
                                    const struct kernel_ops *ops, int32_t max_threads,
                                    int32_t max_rows, int32_t max_outputs);
void transformer_free(struct transformer *transformer);

/* Compute a step: write its rows' keys and values into the cache and the logits of its output rows
 * into the transformer. The caller has acquired the pool, which has at most max_threads threads. */
void transformer_forward(struct transformer *transformer, struct compute_pool *pool,
                         const struct kv_cache *cache, const struct step *step);

/* Choose a token for each of the first num_outputs rows of logits; overwrites the logits. */
void transformer_sample(struct transformer *transformer, struct compute_pool *pool,
                        int32_t num_outputs, const struct sampling *samplings,
                        struct sampled *chosen);

/* The logits of an output row of the last step, vocab_size floats. */
float *transformer_logits(struct transformer *transformer, int32_t output);

#endif
