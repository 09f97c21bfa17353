/* gemm_bf16: bf16 rows times panels of bf16 weights, at the levels without tiles.
 *
 * AVX512_BF16 has an instruction for it. Without, a part of the panel and of the rows at a time is
 * expanded to float32 on the stack and multiplied as gemm_f32 does it: the results are those of
 * gemm_f32, to the bit.
 */
#include "level.h"

#if !defined(__AMX_BF16__)

#include "bf16.h"
#include "gemm_float.h"
#include "kernels.h"

#if defined(__AVX512BF16__)

KERNEL_INLINE vec multiply_add_pairs(vec_u32 weights, vec_u32 pair, vec sums)
{
    return (vec)_mm512_dpbf16_ps((__m512)sums, (__m512bh)weights, (__m512bh)pair);
}

void KERNEL(gemm_bf16)(const struct matrix *weights, int32_t panel, const struct activations *rows,
                       int32_t first_row, int32_t num_rows, float *out, int32_t out_stride)
{
    multiply_panel(weights, panel, rows, first_row, num_rows, out, out_stride, multiply_add_pairs);
}

#else

#include "vec_bf16.h"

enum {
    PART_DEPTH = CHUNK_WORDS, /* as many float32 words as gemm_f32 has in a chunk */
    PART_ROWS = 32,
    STEP_DEPTH = 2 * STEP_WORDS, /* of what a prefetch fetches */
};

struct part {
    _Alignas(64) float weights[PART_DEPTH][PANEL_COLUMNS];
    _Alignas(64) float rows[PART_ROWS][PART_DEPTH];
};

/* `pairs` is a step of the panel. */
static void expand_step(const bf16 *pairs, float weights[STEP_DEPTH][PANEL_COLUMNS])
{
    for (int k = 0; k < STEP_DEPTH; k += 2)
        for (int column = 0; column < PANEL_COLUMNS; column += VEC_LANES) {
            vec even, odd;
            vec_load_bf16_pairs(pairs + k * PANEL_COLUMNS + 2 * column, &even, &odd);
            vec_store(&weights[k][column], even);
            vec_store(&weights[k + 1][column], odd);
        }
}

static void expand_weights(const bf16 *weights, const bf16 *prefetch_end, int32_t depth,
                           struct part *part)
{
    for (int32_t k = 0; k < depth; k += STEP_DEPTH) {
        const bf16 *step = weights + k * PANEL_COLUMNS;
        const bf16 *next_step = step + STEP_DEPTH * PANEL_COLUMNS;
        if (next_step < prefetch_end)
            prefetch_step(next_step);
        expand_step(step, &part->weights[k]);
    }
}

static void expand_rows(const bf16 *rows, int32_t row_stride, int32_t num_rows, int32_t depth,
                        struct part *part)
{
    for (int32_t row = 0; row < num_rows; row++)
        for (int32_t k = 0; k < depth; k++)
            part->rows[row][k] = bf16_to_float(rows[(size_t)row * (size_t)row_stride + (size_t)k]);
}

/* At most PART_ROWS rows. */
static void multiply_rows_by_parts(const bf16 *panel, const bf16 *prefetch_end, const bf16 *rows,
                                   int32_t depth, int32_t num_rows, float *out, size_t out_stride)
{
    struct part part;
    struct product product = {
        .rows = (const char *)part.rows,
        .row_bytes = sizeof part.rows[0],
        .num_rows = num_rows,
        .weights = (const char *)part.weights,
        .out = out,
        .out_stride = out_stride,
    };
    clear_rows(out, out_stride, num_rows);
    for (int32_t k = 0; k < depth; k += PART_DEPTH) {
        product.num_words = depth - k < PART_DEPTH ? depth - k : PART_DEPTH;
        expand_weights(panel + (size_t)k * PANEL_COLUMNS, prefetch_end, product.num_words, &part);
        expand_rows(rows + k, depth, num_rows, product.num_words, &part);
        multiply_chunk(&product, multiply_add_f32);
    }
}

void KERNEL(gemm_bf16)(const struct matrix *weights, int32_t panel, const struct activations *rows,
                       int32_t first_row, int32_t num_rows, float *out, int32_t out_stride)
{
    const bf16 *start = matrix_panel(weights, panel), *values = rows->values;
    const bf16 *end = start + (size_t)rows->depth * PANEL_COLUMNS;
    for (int32_t row = 0; row < num_rows; row += PART_ROWS) {
        int32_t rest = num_rows - row;
        multiply_rows_by_parts(start, first_row + row == 0 ? end : NULL,
                               values + (size_t)(first_row + row) * (size_t)rows->depth,
                               rows->depth, rest < PART_ROWS ? rest : PART_ROWS,
                               out + (size_t)row * (size_t)out_stride, (size_t)out_stride);
    }
}

#endif
#endif
