/* pack_float: panels of float32 and of bf16 weights, from float32 checkpoints.
 *
 * A panel is written in order and read as 32 streams, one a column.
 */
#include "bf16.h"
#include "pack.h"

struct source {
    const float *weights; /* [num_columns][depth] */
    int32_t num_columns;
    int32_t depth;
};

/* Columns past the last one are zero weights. */
static float weight(const struct source *source, int32_t column, int32_t k)
{
    if (column >= source->num_columns)
        return 0.0f;
    return source->weights[(size_t)column * (size_t)source->depth + (size_t)k];
}

static void pack_f32_panel(const struct source *source, int32_t first_column, float *panel)
{
    for (int32_t k = 0; k < source->depth; k++)
        for (int32_t column = 0; column < PANEL_COLUMNS; column++)
            *panel++ = weight(source, first_column + column, k);
}

static void pack_bf16_panel(const struct source *source, int32_t first_column, bf16 *panel)
{
    for (int32_t k = 0; k < source->depth; k += 2)
        for (int32_t column = 0; column < PANEL_COLUMNS; column++) {
            *panel++ = bf16_from_float(weight(source, first_column + column, k));
            *panel++ = bf16_from_float(weight(source, first_column + column, k + 1));
        }
}

void pack_f32(const float *weights, int32_t num_columns, int32_t depth, int32_t panel_stride,
              void *panels)
{
    struct source source = {weights, num_columns, depth};
    size_t step = (size_t)panel_stride * matrix_panel_bytes(WEIGHTS_F32, depth);
    for (int32_t panel = 0; panel < matrix_num_panels(num_columns); panel++)
        pack_f32_panel(&source, panel * PANEL_COLUMNS,
                       (float *)((char *)panels + (size_t)panel * step));
}

void pack_bf16(const float *weights, int32_t num_columns, int32_t depth, int32_t panel_stride,
               void *panels)
{
    struct source source = {weights, num_columns, depth};
    size_t step = (size_t)panel_stride * matrix_panel_bytes(WEIGHTS_BF16, depth);
    for (int32_t panel = 0; panel < matrix_num_panels(num_columns); panel++)
        pack_bf16_panel(&source, panel * PANEL_COLUMNS,
                        (bf16 *)((char *)panels + (size_t)panel * step));
}
