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

void KERNEL(gemm_bf16)(const struct gemm *gemm)
{
    multiply_panel(gemm, multiply_add_pairs);
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

/* Rows of the product from `first` on, at most PART_ROWS. */
static void multiply_by_parts(const struct gemm *gemm, int32_t first)
{
    struct part part;
    const bf16 *panel = matrix_panel(gemm->weights, gemm->panel);
    size_t stride = (size_t)gemm->rows->stride;
    const bf16 *rows = gemm->rows->values;
    rows += (size_t)(gemm->first_row + first) * stride;
    int32_t depth = gemm->rows->depth, rest = gemm->num_rows - first;
    struct product product = {
        .rows = (const char *)part.rows,
        .row_bytes = sizeof part.rows[0],
        .num_rows = rest < PART_ROWS ? rest : PART_ROWS,
        .weights = (const char *)part.weights,
        .out = gemm->out + (size_t)first * (size_t)gemm->out_stride,
        .out_stride = (size_t)gemm->out_stride,
    };
    clear_rows(product.out, product.out_stride, product.num_rows);
    for (int32_t k = 0; k < depth; k += PART_DEPTH) {
        product.num_words = depth - k < PART_DEPTH ? depth - k : PART_DEPTH;
        expand_weights(panel + (size_t)k * PANEL_COLUMNS, gemm->is_first && first == 0,
                       product.num_words, &part);
        expand_rows(rows + k, stride, product.num_rows, product.num_words, &part);
        multiply_chunk(&product, multiply_add_f32);
    }
}

void KERNEL(gemm_bf16)(const struct gemm *gemm)
{
    for (int32_t row = 0; row < gemm->num_rows; row += PART_ROWS)
        multiply_by_parts(gemm, row);
}

#endif
#endif
