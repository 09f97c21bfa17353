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
                       int32_t first_row, int32_t num_rows, float *out, int32_t out_stride,
                       void *unpacked, struct panel_prefetch *prefetch)
{
    (void)unpacked, (void)prefetch;
    multiply_panel(weights, panel, rows, first_row, num_rows, out, out_stride, multiply_add_pairs);
}

#else

#include "vec_bf16.h"

enum {
    PART_DEPTH = CHUNK_WORDS, /* as many float32 words as gemm_f32 has in a chunk */
    PART_ROWS = 32,
};

struct part {
    _Alignas(64) float weights[PART_DEPTH][PANEL_COLUMNS];
    _Alignas(64) float rows[PART_ROWS][PART_DEPTH];
};

static void expand_weights(const bf16 *pairs, bool prefetches, int32_t depth, struct part *part)
{
    size_t ahead = prefetches ? PREFETCH_BYTES : 0;
    for (int32_t k = 0; k < depth; k += 2, pairs += 2 * PANEL_COLUMNS) {
        prefetch_columns((const char *)pairs + ahead);
        for (int column = 0; column < PANEL_COLUMNS; column += VEC_LANES) {
            vec even, odd;
            vec_load_bf16_pairs(pairs + 2 * column, &even, &odd);
            vec_store(&part->weights[k][column], even);
            vec_store(&part->weights[k + 1][column], odd);
        }
    }
}

static void expand_rows(const bf16 *rows, size_t row_stride, int32_t num_rows, int32_t depth,
                        struct part *part)
{
    for (int32_t row = 0; row < num_rows; row++, rows += row_stride)
        for (int32_t k = 0; k < depth; k++)
            part->rows[row][k] = bf16_to_float(rows[k]);
}

/* At most PART_ROWS rows. */
static void multiply_by_parts(const bf16 *panel, bool prefetches, const bf16 *rows, int32_t depth,
                              int32_t num_rows, float *out, size_t out_stride)
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
        expand_weights(panel + (size_t)k * PANEL_COLUMNS, prefetches, product.num_words, &part);
        expand_rows(rows + k, (size_t)depth, num_rows, product.num_words, &part);
        multiply_chunk(&product, multiply_add_f32);
    }
}

void KERNEL(gemm_bf16)(const struct matrix *weights, int32_t panel, const struct activations *rows,
                       int32_t first_row, int32_t num_rows, float *out, int32_t out_stride,
                       void *unpacked, struct panel_prefetch *prefetch)
{
    (void)unpacked, (void)prefetch;
    const bf16 *values = rows->values;
    for (int32_t i = 0; i < num_rows; i += PART_ROWS) {
        int32_t rest = num_rows - i, row = first_row + i;
        multiply_by_parts(matrix_panel(weights, panel), row == 0,
                          values + (size_t)row * (size_t)rows->depth, rows->depth,
                          rest < PART_ROWS ? rest : PART_ROWS,
                          out + (size_t)i * (size_t)out_stride, (size_t)out_stride);
    }
}

#endif
#endif
