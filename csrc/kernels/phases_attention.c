/* The phases of attention: queries, keys and values of each head, then the tiles. */
#include <stdbool.h>

#include "transformer_state.h"

static void normalize_head(const struct transformer *this, const float *norm, float *head)
{
    const struct transformer_shape *shape = &this->weights.shape;
    if (norm != NULL)
        this->ops->rms_norm(head, norm, shape->rms_norm_epsilon, shape->head_dim, head);
}

static void rotate_head(const struct transformer *this, int32_t row, float *head)
{
    int32_t num_angles = this->weights.shape.head_dim / 2;
    this->ops->rotate(head, this->weights.shape.head_dim, row_of(this->cosines, row, num_angles),
                      row_of(this->sines, row, num_angles));
}

static void finish_query(const struct transformer *this, int32_t row, float *query)
{
    normalize_head(this, current_layer(this)->query_norm, query);
    rotate_head(this, row, query);
}

static void finish_key(const struct transformer *this, int32_t head, int32_t row, float *key)
{
    normalize_head(this, current_layer(this)->key_norm, key);
    rotate_head(this, row, key);
    this->ops->kv_write_key(this->cache, this->layer, head, this->blocks[row],
                            this->positions[row] % KV_BLOCK_TOKENS, key);
}

static void finish_value(const struct transformer *this, int32_t head, int32_t row,
                         const float *value)
{
    this->ops->kv_write_value(this->cache, this->layer, head, this->blocks[row],
                              this->positions[row] % KV_BLOCK_TOKENS, value);
}

/* One head of qkv for a tile of rows: queries are left where attention reads them, keys and values
 * go to the cache. */
static void project_head_tile(const struct transformer *this, int32_t head, int32_t first_row,
                              int32_t num_rows, float *tile)
{
    const struct transformer_shape *shape = &this->weights.shape;
    const struct transformer_layer *layer = current_layer(this);
    int32_t head_dim = shape->head_dim, panels = head_dim / PANEL_COLUMNS;
    bool is_query = head < shape->num_heads;
    int32_t stride = is_query ? queries_width(shape) : head_dim;
    float *out = is_query ? row_of(this->queries, first_row, stride) + head * head_dim : tile;
    int32_t kv_head = (head - shape->num_heads) % shape->num_kv_heads;
    bool is_key = !is_query && head < shape->num_heads + shape->num_kv_heads;

    for (int32_t i = 0; i < panels; i++)
        multiply(this, &layer->qkv, head * panels + i, &this->inputs, first_row, num_rows,
                 out + i * PANEL_COLUMNS, stride);
    for (int32_t i = 0; i < num_rows; i++) {
        float *values = row_of(out, i, stride);
        add_bias(values, layer->qkv_bias, head * head_dim, head_dim);
        if (is_query)
            finish_query(this, first_row + i, values);
        else if (is_key)
            finish_key(this, kv_head, first_row + i, values);
        else
            finish_value(this, kv_head, first_row + i, values);
    }
}

void project_head(void *context, int32_t head, int32_t member)
{
    struct transformer *this = context;
    for (int32_t row = 0; row < this->step->num_rows; row += TILE_ROWS)
        project_head_tile(this, head, row, lesser(TILE_ROWS, this->step->num_rows - row),
                          scratch_of(this, member));
}

void attend_tile(void *context, int32_t chunk, int32_t member)
{
    struct transformer *this = context;
    const struct transformer_shape *shape = &this->weights.shape;
    struct attention_tile tile = this->tiles[chunk % this->num_tiles];
    tile.layer = this->layer;
    tile.kv_head = chunk / this->num_tiles;
    size_t first_head = (size_t)tile.kv_head * (size_t)tile.group * (size_t)shape->head_dim;
    tile.queries += first_head;
    tile.out += first_head;
    this->ops->attend[this->cache->format](this->cache, &tile, scratch_of(this, member));
}
