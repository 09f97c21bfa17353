/* The phases that are matrix products with an end of their own: residual, SwiGLU, logits. */
#include "transformer_state.h"

static void add_product(const struct transformer *this, const struct matrix *matrix,
                        const float *bias, const struct activations *rows, int32_t panel,
                        float *tile)
{
    int32_t width = this->weights.shape.hidden_size, column = panel * PANEL_COLUMNS;
    for (int32_t row = 0; row < this->step->num_rows; row += TILE_ROWS) {
        int32_t num_rows = lesser(TILE_ROWS, this->step->num_rows - row);
        multiply(this, matrix, panel, rows, row, num_rows, tile, PANEL_COLUMNS);
        for (int32_t i = 0; i < num_rows; i++) {
            float *values = tile + i * PANEL_COLUMNS;
            add_bias(values, bias, column, PANEL_COLUMNS);
            add_floats(row_of(this->hidden, row + i, width) + column, values, PANEL_COLUMNS);
        }
    }
}

void add_attention_output(void *context, int32_t panel, int32_t member)
{
    struct transformer *this = context;
    const struct transformer_layer *layer = current_layer(this);
    add_product(this, &layer->output, layer->output_bias, &this->inputs, panel,
                scratch_of(this, member));
}

void add_mlp_output(void *context, int32_t panel, int32_t member)
{
    struct transformer *this = context;
    const struct transformer_layer *layer = current_layer(this);
    add_product(this, &layer->down, layer->down_bias, &this->activated, panel,
                scratch_of(this, member));
}

void activate_panel(void *context, int32_t panel, int32_t member)
{
    struct transformer *this = context;
    const struct transformer_layer *layer = current_layer(this);
    float *gate = scratch_of(this, member), *up = gate + TILE_ROWS * PANEL_COLUMNS;
    int32_t column = panel * PANEL_COLUMNS;
    for (int32_t row = 0; row < this->step->num_rows; row += TILE_ROWS) {
        int32_t num_rows = lesser(TILE_ROWS, this->step->num_rows - row);
        multiply(this, &layer->gate_up, 2 * panel, &this->inputs, row, num_rows, gate,
                 PANEL_COLUMNS);
        multiply(this, &layer->gate_up, 2 * panel + 1, &this->inputs, row, num_rows, up,
                 PANEL_COLUMNS);
        for (int32_t i = 0; i < num_rows; i++) {
            float *values = gate + i * PANEL_COLUMNS, *factors = up + i * PANEL_COLUMNS;
            add_bias(values, layer->gate_bias, column, PANEL_COLUMNS);
            add_bias(factors, layer->up_bias, column, PANEL_COLUMNS);
            this->ops->swiglu(values, factors, PANEL_COLUMNS, values);
            this->ops->store[this->activated.format](&this->activated, row + i, column, values,
                                                     PANEL_COLUMNS);
        }
    }
}

void compute_logits(void *context, int32_t chunk, int32_t member)
{
    struct transformer *this = context;
    const struct matrix *head = &this->weights.head;
    int32_t num_panels = matrix_num_panels(head->num_columns);
    int32_t end = lesser((chunk + 1) * HEAD_CHUNK_PANELS, num_panels);
    (void)member;
    for (int32_t panel = chunk * HEAD_CHUNK_PANELS; panel < end; panel++)
        for (int32_t row = 0; row < this->step->num_outputs; row += TILE_ROWS)
            multiply(this, head, panel, &this->inputs, row,
                     lesser(TILE_ROWS, this->step->num_outputs - row),
                     transformer_logits(this, row) + panel * PANEL_COLUMNS,
                     (int32_t)this->logits_stride);
}
