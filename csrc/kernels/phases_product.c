/* The phases that are matrix products: those with an end of their own, residual and SwiGLU, and the
 * logits. */
#include <stddef.h>

#include "transformer_state.h"

/* ---- products that are added to the residual stream ---- */

static void add_to_rows(struct transformer *this, const struct product_tile *tile,
                        const float *biases)
{
    this->ops->add_tile(tile, biases, this->hidden, this->weights.shape.hidden_size);
}

static void finish_attention_output(void *context, const struct product_tile *tile)
{
    struct transformer *this = context;
    add_to_rows(this, tile, current_layer(this)->output_bias);
}

static void finish_mlp_output(void *context, const struct product_tile *tile)
{
    struct transformer *this = context;
    add_to_rows(this, tile, current_layer(this)->down_bias);
}

/* ---- SwiGLU ---- */

static const float *biases_from(const float *biases, int32_t column)
{
    return biases == NULL ? NULL : biases + column;
}

static void finish_gate_up(void *context, const struct product_tile *tile)
{
    struct transformer *this = context;
    const struct transformer_layer *layer = current_layer(this);
    int32_t column = tile->first_panel / GATE_UP_PANELS * PANEL_COLUMNS;
    this->ops->swiglu[this->activated.format](tile, biases_from(layer->gate_bias, column),
                                              biases_from(layer->up_bias, column),
                                              &this->activated, column);
}

/* ---- products ---- */

static struct panel_product product_of(struct transformer *this, const struct matrix *matrix,
                                       const struct activations *rows, finish_product *finish)
{
    return (struct panel_product){
        .multiply = this->ops->gemm[matrix->format][matrix->rows],
        .matrix = matrix,
        .rows = rows,
        .num_rows = this->num_selected,
        .chunk_panels = 1,
        .finish = finish,
        .context = this,
    };
}

struct panel_product qkv_product(struct transformer *this)
{
    struct panel_product product =
        product_of(this, &current_layer(this)->qkv, &this->inputs, finish_head_tile);
    product.chunk_panels = this->weights.shape.head_dim / PANEL_COLUMNS;
    return product;
}

struct panel_product attention_output_product(struct transformer *this)
{
    return product_of(this, &current_layer(this)->output, &this->inputs, finish_attention_output);
}

struct panel_product gate_up_product(struct transformer *this)
{
    struct panel_product product =
        product_of(this, &current_layer(this)->gate_up, &this->inputs, finish_gate_up);
    product.chunk_panels = GATE_UP_PANELS;
    return product;
}

struct panel_product mlp_output_product(struct transformer *this)
{
    return product_of(this, &current_layer(this)->down, &this->activated, finish_mlp_output);
}

struct panel_product logits_product(struct transformer *this)
{
    struct panel_product product = product_of(this, &this->weights.head, &this->inputs, NULL);
    product.out = this->logits;
    product.out_stride = (int32_t)this->logits_stride;
    return product;
}

void multiply_panels(void *context, struct chunks chunks, int32_t member)
{
    struct transformer *this = context;
    panel_product_run(&this->product, chunks, member, scratch_of(this, member));
}
