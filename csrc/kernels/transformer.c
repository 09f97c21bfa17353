#include "transformer.h"

#include <stdbool.h>
#include <stdlib.h>

#include "transformer_state.h"

#define ALIGNMENT 64 /* of every buffer: a cache line, and the widest vector */

/* Floats: a line more, or the same column of all rows could be in the same set of a cache. */
#define LOGITS_PADDING 16

/* --- memory -------------------------------------------------------------------- */

static size_t round_up(size_t bytes)
{
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static void *allocate(size_t count, size_t bytes_each)
{
    return aligned_alloc(ALIGNMENT, round_up(count * bytes_each + 1));
}

static float *allocate_floats(int32_t num_rows, int32_t width)
{
    return allocate((size_t)num_rows * (size_t)width, sizeof(float));
}

static int32_t greater(int32_t a, int32_t b)
{
    return a > b ? a : b;
}

static size_t larger(size_t a, size_t b)
{
    return a > b ? a : b;
}

/* One buffer serves every format: float32 is the widest, with or without a gap after the others. */
static bool allocate_activations(struct activations *rows, int32_t num_rows, int32_t depth)
{
    rows->values = allocate_floats(num_rows, depth);
    rows->scales = allocate_floats(num_rows, depth / GROUP_SIZE);
    rows->sums = allocate_floats(num_rows, depth / GROUP_SIZE);
    return rows->values && rows->scales && rows->sums;
}

static void free_activations(struct activations *rows)
{
    free(rows->values);
    free(rows->scales);
    free(rows->sums);
}

/* Of the products of a layer. */
static size_t product_bytes(const struct transformer_layer *layer, int32_t head_panels)
{
    size_t bytes = panel_product_scratch_bytes(&layer->qkv, head_panels);
    bytes = larger(bytes, panel_product_scratch_bytes(&layer->output, 1));
    bytes = larger(bytes, panel_product_scratch_bytes(&layer->gate_up, GATE_UP_PANELS));
    return larger(bytes, panel_product_scratch_bytes(&layer->down, 1));
}

/* A member is in one phase at a time, and each phase uses its scratch for one purpose. */
static size_t scratch_bytes(const struct transformer_weights *weights)
{
    const struct transformer_shape *shape = &weights->shape;
    int32_t group = shape->num_heads / shape->num_kv_heads;
    size_t bytes = (size_t)shape->hidden_size * sizeof(float); /* a row */
    for (int32_t i = 0; i < shape->num_layers; i++)
        bytes = larger(bytes, product_bytes(&weights->layers[i], shape->head_dim / PANEL_COLUMNS));
    bytes = larger(bytes, panel_product_scratch_bytes(&weights->head, 1));
    bytes = larger(bytes, attention_scratch_bytes(group, shape->head_dim));
    bytes = larger(bytes, sampler_scratch_bytes(shape->vocab_size));
    return round_up(bytes);
}

static bool allocate_buffers(struct transformer *this, int32_t max_threads, int32_t max_rows,
                             int32_t max_outputs)
{
    const struct transformer_shape *shape = &this->weights.shape;
    int32_t width = queries_width(shape);
    this->hidden = allocate_floats(max_rows, shape->hidden_size);
    this->queries = allocate_floats(max_rows, width);
    this->attended = allocate_floats(max_rows, width);
    this->cosines = allocate_floats(max_rows, shape->head_dim / 2);
    this->sines = allocate_floats(max_rows, shape->head_dim / 2);
    this->logits_stride =
        (size_t)matrix_num_panels(shape->vocab_size) * PANEL_COLUMNS + LOGITS_PADDING;
    this->logits = allocate((size_t)max_outputs * this->logits_stride, sizeof(float));
    this->scratch_bytes = scratch_bytes(&this->weights);
    this->scratch = allocate((size_t)max_threads, this->scratch_bytes);
    this->blocks = allocate((size_t)max_rows, sizeof *this->blocks);
    this->positions = allocate((size_t)max_rows, sizeof *this->positions);
    this->tiles = allocate((size_t)max_rows, sizeof *this->tiles);
    bool has_inputs = allocate_activations(&this->inputs, max_rows,
                                           greater(shape->hidden_size, width));
    bool has_activated = allocate_activations(&this->activated, max_rows, shape->intermediate_size);
    return has_inputs && has_activated && this->hidden && this->queries && this->attended &&
           this->cosines && this->sines && this->logits && this->scratch && this->blocks &&
           this->positions && this->tiles;
}

struct transformer *transformer_new(const struct transformer_weights *weights,
                                    const struct kernel_ops *ops, int32_t max_threads,
                                    int32_t max_rows, int32_t max_outputs)
{
    struct transformer *this = calloc(1, sizeof *this);
    if (this == NULL)
        return NULL;
    this->weights = *weights;
    this->ops = ops;
    if (!allocate_buffers(this, max_threads, max_rows, max_outputs)) {
        transformer_free(this);
        return NULL;
    }
    return this;
}

void transformer_free(struct transformer *this)
{
    if (this == NULL)
        return;
    free_activations(&this->inputs);
    free_activations(&this->activated);
    free(this->hidden);
    free(this->queries);
    free(this->attended);
    free(this->cosines);
    free(this->sines);
    free(this->logits);
    free(this->scratch);
    free(this->blocks);
    free(this->positions);
    free(this->tiles);
    free(this);
}

/* --- a step ---------------------------------------------------------------------- */

static void place_rows(struct transformer *this, const struct step_span *span)
{
    for (int32_t i = 0; i < span->num_rows; i++) {
        int32_t position = span->first_position + i;
        this->positions[span->first_row + i] = position;
        this->blocks[span->first_row + i] = span->block_table[position / KV_BLOCK_TOKENS];
    }
}

static void cut_into_tiles(struct transformer *this, const struct step_span *span)
{
    const struct transformer_shape *shape = &this->weights.shape;
    int32_t width = queries_width(shape), group = shape->num_heads / shape->num_kv_heads;
    int32_t tile_rows = ATTENTION_MAX_ROWS(group);
    for (int32_t i = 0; i < span->num_rows; i += tile_rows) {
        int32_t row = span->first_row + i;
        this->tiles[this->num_tiles++] = (struct attention_tile){
            .group = group,
            .first_position = span->first_position + i,
            .num_rows = lesser(tile_rows, span->num_rows - i),
            .block_table = span->block_table,
            .queries = row_of(this->queries, row, width),
            .out = row_of(this->attended, row, width),
            .row_stride = width,
        };
    }
}

static void begin_step(struct transformer *this, const struct kv_cache *cache,
                       const struct step *step)
{
    this->step = step;
    this->cache = cache;
    this->num_tiles = 0;
    for (int32_t i = 0; i < step->num_spans; i++) {
        place_rows(this, &step->spans[i]);
        cut_into_tiles(this, &step->spans[i]);
    }
}

/* What the next phases round rows to, for a product with this matrix. */
static void round_for(struct transformer *this, struct activations *rows,
                      const struct matrix *matrix)
{
    this->rounding = matrix->rows;
    rows->format = this->rounding;
    rows->depth = matrix->depth;
    rows->stride = activations_stride(rows->format, matrix->depth, this->num_selected);
}

static void select_rows(struct transformer *this, const int32_t *rows, int32_t count)
{
    this->selected_rows = rows;
    this->num_selected = count;
}

static void normalize(struct transformer *this, struct compute_pool *pool, const float *norm,
                      const struct matrix *matrix)
{
    this->norm = norm;
    round_for(this, &this->inputs, matrix);
    compute_pool_run(pool, normalize_rows, this, num_chunks(this->num_selected, CHUNK_ROWS));
}

static void multiply(struct transformer *this, struct compute_pool *pool,
                     struct panel_product product)
{
    int32_t count = panel_product_num_chunks(&product);
    this->product = product;
    this->product.num_members = compute_pool_num_members(pool, count);
    compute_pool_run(pool, multiply_panels, this, count);
}

static void run_layer(struct transformer *this, struct compute_pool *pool)
{
    const struct transformer_layer *layer = current_layer(this);

    normalize(this, pool, layer->attention_norm, &layer->qkv);
    multiply(this, pool, qkv_product(this));
    compute_pool_run(pool, attend_tiles, this,
                     this->num_tiles * this->weights.shape.num_kv_heads);
    round_for(this, &this->inputs, &layer->output);
    compute_pool_run(pool, store_attended_rows, this, num_chunks(this->num_selected, CHUNK_ROWS));
    multiply(this, pool, attention_output_product(this));

    normalize(this, pool, layer->mlp_norm, &layer->gate_up);
    round_for(this, &this->activated, &layer->down);
    multiply(this, pool, gate_up_product(this));
    multiply(this, pool, mlp_output_product(this));
}

void transformer_forward(struct transformer *this, struct compute_pool *pool,
                         const struct kv_cache *cache, const struct step *step)
{
    const struct transformer_weights *weights = &this->weights;
    begin_step(this, cache, step);
    compute_pool_run(pool, embed_rows, this, num_chunks(step->num_rows, CHUNK_ROWS));
    select_rows(this, NULL, step->num_rows);
    for (this->layer = 0; this->layer < weights->shape.num_layers; this->layer++)
        run_layer(this, pool);
    if (step->num_outputs == 0)
        return;
    select_rows(this, step->output_rows, step->num_outputs);
    normalize(this, pool, weights->final_norm, &weights->head);
    multiply(this, pool, logits_product(this));
}

static void sample_outputs(void *context, struct chunks outputs, int32_t member)
{
    struct transformer *this = context;
    for (int32_t i = outputs.first; i < outputs.first + outputs.count; i++)
        this->chosen[i] =
            this->ops->sample(transformer_logits(this, i), this->weights.shape.vocab_size,
                              &this->samplings[i], scratch_of(this, member));
}

void transformer_sample(struct transformer *this, struct compute_pool *pool, int32_t num_outputs,
                        const struct sampling *samplings, struct sampled *chosen)
{
    this->samplings = samplings;
    this->chosen = chosen;
    compute_pool_run(pool, sample_outputs, this, num_outputs);
}

float *transformer_logits(struct transformer *this, int32_t output)
{
    return this->logits + (size_t)output * this->logits_stride;
}
