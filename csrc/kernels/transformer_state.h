/* transformer_state: what a step's phases see of the transformer, and what they share.
 *
 * A phase is a function of the compute pool: it gets the transformer, some of its chunks, and the
 * number of the member of the pool that runs it. transformer.c sets the fields of the step in
 * progress before it starts a phase, and the phases write only to the rows, columns or heads that
 * their chunk stands for.
 */
#ifndef REALTIME_SERVE_TRANSFORMER_STATE_H
#define REALTIME_SERVE_TRANSFORMER_STATE_H

#include <stddef.h>
#include <stdint.h>

#include "panel_product.h"
#include "transformer.h"

/* Rows that one chunk of a phase over rows takes: a step of a few rows is one chunk, which the
 * caller does alone. */
#define CHUNK_ROWS 8

/* A panel of gate and the one of up that belongs to it. */
#define GATE_UP_PANELS 2

struct transformer {
    struct transformer_weights weights;
    const struct kernel_ops *ops;

    float *hidden;   /* [max_rows][hidden_size], the residual stream */
    float *queries;  /* [max_rows][num_heads][head_dim] */
    float *attended; /* likewise */
    float *cosines;  /* [max_rows][head_dim / 2] */
    float *sines;
    float *logits; /* [max_outputs][logits_stride] */
    size_t logits_stride;
    struct activations inputs;    /* of the product that comes next */
    struct activations activated; /* of down, which is filled while `inputs` is read */
    char *scratch;                /* [max_threads][scratch_bytes] */
    size_t scratch_bytes;

    /* The step in progress. */
    const struct step *step;
    const struct kv_cache *cache;
    int32_t *blocks; /* where each row's key and value go */
    int32_t *positions;
    struct attention_tile *tiles;
    int32_t num_tiles;
    int32_t layer;
    const float *norm;               /* of the phase in progress: its norm, */
    enum activation_format rounding; /* what its rows are rounded to, */
    const int32_t *selected_rows;    /* and which rows it is about; NULL: all */
    int32_t num_selected;
    struct panel_product product;    /* of the phase in progress, if it is one */
    const struct sampling *samplings;
    struct sampled *chosen;
};

static inline int32_t queries_width(const struct transformer_shape *shape)
{
    return shape->num_heads * shape->head_dim;
}

static inline int32_t lesser(int32_t a, int32_t b)
{
    return a < b ? a : b;
}

static inline int32_t num_chunks(int32_t count, int32_t chunk_size)
{
    return (count + chunk_size - 1) / chunk_size;
}

static inline void *scratch_of(const struct transformer *this, int32_t member)
{
    return this->scratch + (size_t)member * this->scratch_bytes;
}

static inline const struct transformer_layer *current_layer(const struct transformer *this)
{
    return &this->weights.layers[this->layer];
}

static inline float *row_of(float *rows, int32_t row, int32_t width)
{
    return rows + (size_t)row * (size_t)width;
}

static inline void add_bias(const struct transformer *this, float *values, const float *bias,
                            int32_t first_column, int32_t count)
{
    if (bias != NULL)
        this->ops->add(values, bias + first_column, count);
}

/* phases_rows.c: chunks of CHUNK_ROWS rows. */
compute_work embed_rows, normalize_rows, store_attended_rows;

/* phases_attention.c: one chunk a tile and key-value head. */
compute_work attend_tiles;
finish_product finish_head_tile;

/* phases_product.c: the chunks of the product in progress, which is one of these. */
compute_work multiply_panels;
struct panel_product qkv_product(struct transformer *this);
struct panel_product attention_output_product(struct transformer *this);
struct panel_product gate_up_product(struct transformer *this);
struct panel_product mlp_output_product(struct transformer *this);
struct panel_product logits_product(struct transformer *this);

#endif
