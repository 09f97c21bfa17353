/* The phases of attention: queries, keys and values of each head, then the tiles. */
#include <stddef.h>

#include "transformer_state.h"

static void normalize_heads(const struct transformer *this, const float *norm,
                            const struct product_tile *tile)
{
    const struct transformer_shape *shape = &this->weights.shape;
    if (norm == NULL)
        return;
    for (int32_t i = 0; i < tile->num_rows; i++) {
        float *head = row_of(tile->values, i, tile->stride);
        this->ops->rms_norm(head, norm, shape->rms_norm_epsilon, shape->head_dim, head);
    }
}

static void rotate_heads(const struct transformer *this, const struct product_tile *tile,
                         float *out, int32_t out_stride)
{
    int32_t num_angles = this->weights.shape.head_dim / 2;
    this->ops->rotate(tile, row_of(this->cosines, tile->first_row, num_angles),
                      row_of(this->sines, tile->first_row, num_angles), out, out_stride);
}

/* Queries go where attention reads them. */
static void finish_queries(const struct transformer *this, int32_t head,
                           const struct product_tile *tile)
{
    int32_t width = queries_width(&this->weights.shape);
    float *queries = row_of(this->queries, tile->first_row, width);
    normalize_heads(this, current_layer(this)->query_norm, tile);
    rotate_heads(this, tile, queries + head * this->weights.shape.head_dim, width);
}

static void write_heads(const struct transformer *this, kv_write_tile *write, int32_t head,
                        const struct product_tile *tile)
{
    write(this->cache, this->layer, head, this->blocks + tile->first_row,
          this->positions + tile->first_row, tile);
}

static void finish_keys(const struct transformer *this, int32_t head,
                        const struct product_tile *tile)
{
    normalize_heads(this, current_layer(this)->key_norm, tile);
    rotate_heads(this, tile, tile->values, tile->stride);
    write_heads(this, this->ops->kv_write_keys, head, tile);
}

static void add_biases(const struct transformer *this, const struct product_tile *tile)
{
    for (int32_t i = 0; i < tile->num_rows; i++)
        add_bias(this, row_of(tile->values, i, tile->stride), current_layer(this)->qkv_bias,
                 tile->first_panel * PANEL_COLUMNS, tile->num_panels * PANEL_COLUMNS);
}

void finish_head_tile(void *context, const struct product_tile *tile)
{
    struct transformer *this = context;
    const struct transformer_shape *shape = &this->weights.shape;
    int32_t head = tile->first_panel / tile->num_panels;
    int32_t kv_head = head - shape->num_heads;
    add_biases(this, tile);
    if (kv_head < 0)
        finish_queries(this, head, tile);
    else if (kv_head < shape->num_kv_heads)
        finish_keys(this, kv_head, tile);
    else
        write_heads(this, this->ops->kv_write_values, kv_head - shape->num_kv_heads, tile);
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
