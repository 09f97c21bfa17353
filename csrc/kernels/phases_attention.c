/* The phases of attention: queries, keys and values of each head, then the tiles. */
#include <string.h>

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

/* One row of one head of qkv: queries go where attention reads them, keys and values to the
 * cache. */
static void finish_head(const struct transformer *this, int32_t head, int32_t row, float *values)
{
    const struct transformer_shape *shape = &this->weights.shape;
    size_t head_bytes = (size_t)shape->head_dim * sizeof(float);
    if (head < shape->num_heads) {
        finish_query(this, row, values);
        memcpy(row_of(this->queries, row, queries_width(shape)) + head * shape->head_dim, values,
               head_bytes);
    } else if (head < shape->num_heads + shape->num_kv_heads) {
        finish_key(this, head - shape->num_heads, row, values);
    } else {
        finish_value(this, head - shape->num_heads - shape->num_kv_heads, row, values);
    }
}

void finish_head_tile(void *context, const struct product_tile *tile)
{
    struct transformer *this = context;
    int32_t head_dim = this->weights.shape.head_dim;
    int32_t first_column = tile->first_panel * PANEL_COLUMNS;
    for (int32_t i = 0; i < tile->num_rows; i++) {
        float *values = row_of(tile->values, i, tile->stride);
        add_bias(this, values, current_layer(this)->qkv_bias, first_column, head_dim);
        finish_head(this, first_column / head_dim, tile->first_row + i, values);
    }
}

static void attend_tile(struct transformer *this, int32_t chunk, void *scratch)
{
    const struct transformer_shape *shape = &this->weights.shape;
    struct attention_tile tile = this->tiles[chunk % this->num_tiles];
    tile.layer = this->layer;
    tile.kv_head = chunk / this->num_tiles;
    size_t first_head = (size_t)tile.kv_head * (size_t)tile.group * (size_t)shape->head_dim;
    tile.queries += first_head;
    tile.out += first_head;
    this->ops->attend[this->cache->format](this->cache, &tile, scratch);
}

void attend_tiles(void *context, struct chunks chunks, int32_t member)
{
    struct transformer *this = context;
    for (int32_t i = 0; i < chunks.count; i++)
        attend_tile(this, chunks.first + i, scratch_of(this, member));
}
