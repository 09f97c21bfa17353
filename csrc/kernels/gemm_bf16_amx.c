/* gemm_bf16 by AMX tiles: up to 32 rows times the 32 columns of a panel at once.
 *
 *                   columns 0-15     columns 16-31
 *   rows  0-15         sum 0            sum 1         <- activations 4
 *   rows 16-31         sum 2            sum 3         <- activations 5
 *                        ^ weights 6      ^ weights 7
 *
 * A step goes 32 values along the depth: to each sum, TDPBF16PS adds 16 pairs of products in
 * order. Activations and panels are stored as tiles want them; few rows take tiles of few rows.
 *
 * All loads of operands are streaming ones (TILELOADDT1). A panel and 32 rows together do not fit
 * the first cache, and with common loads each evicts the other: 256 rows take a tenth longer. A
 * panel in memory arrives a tenth faster, too. The order of loads and products matters as much.
 */
#include "level.h"

#if defined(__AMX_BF16__)

#include <stdbool.h>

#include "amx.h"
#include "bf16.h"
#include "kernels.h"
#include "vec.h"

enum {
    STEP_DEPTH = AMX_ROW_BYTES / sizeof(bf16),
    STEP_WEIGHTS = STEP_DEPTH * PANEL_COLUMNS,
    BLOCK_ROWS = 2 * AMX_TILE_ROWS,
    TILE_COLUMNS = AMX_ROW_BYTES / sizeof(float),
    PAIR_BYTES = PANEL_COLUMNS * 2 * sizeof(bf16), /* between the rows of a tile of weights */
    LINE_WEIGHTS = 64 / sizeof(bf16),
};

/* Rows times one panel; those after the first 16 are its high rows. */
struct block {
    const bf16 *activations;
    const bf16 *panel;
    bool is_first_pass; /* the panel is in memory, not in a cache */
    int32_t depth;
    int32_t num_rows; /* 1 to BLOCK_ROWS */
    float *out;
    size_t out_stride;
    struct panel_prefetch *prefetch;
};

/* has_high_rows is a constant wherever this and the next ones are called. */
KERNEL_INLINE void clear_sums(bool has_high_rows)
{
    _tile_zero(0);
    _tile_zero(1);
    if (has_high_rows) {
        _tile_zero(2);
        _tile_zero(3);
    }
}

/* All lines of a step at once, in order, and one step before it is loaded: the hardware's
 * prefetchers, which read further ahead, then keep pace. They lose track if the lines are asked for
 * earlier or past the panel's end: one row takes a sixth longer, and 32 a third. Without high rows
 * in the first pass there is no other; the panel arrives 4 % faster in the second cache. */
KERNEL_INLINE void prefetch_step(const bf16 *step, bool has_high_rows)
{
    for (int i = 0; i < STEP_WEIGHTS; i += LINE_WEIGHTS) {
        if (has_high_rows)
            _mm_prefetch(step + i, _MM_HINT_T0);
        else
            _mm_prefetch(step + i, _MM_HINT_T1);
    }
}

KERNEL_INLINE void add_products(const struct block *block, bool has_high_rows)
{
    size_t row_bytes = (size_t)block->depth * sizeof(bf16);
    const bf16 *weights = block->panel;
    for (int32_t k = 0; k < block->depth; k += STEP_DEPTH, weights += STEP_WEIGHTS) {
        const bf16 *low_rows = block->activations + k;
        if (block->is_first_pass && k + STEP_DEPTH < block->depth)
            prefetch_step(weights + STEP_WEIGHTS, has_high_rows);
        if (has_high_rows)
            panel_prefetch_advance(block->prefetch);
        _tile_stream_loadd(6, weights, PAIR_BYTES);
        _tile_stream_loadd(4, low_rows, row_bytes);
        _tile_dpbf16ps(0, 4, 6);
        _tile_stream_loadd(7, weights + 2 * TILE_COLUMNS, PAIR_BYTES);
        _tile_dpbf16ps(1, 4, 7);
        if (has_high_rows) {
            _tile_stream_loadd(5, low_rows + (size_t)block->depth * AMX_TILE_ROWS, row_bytes);
            _tile_dpbf16ps(2, 5, 6);
            _tile_dpbf16ps(3, 5, 7);
        }
    }
}

KERNEL_INLINE void store_sums(const struct block *block, bool has_high_rows)
{
    size_t out_bytes = block->out_stride * sizeof(float);
    _tile_stored(0, block->out, out_bytes);
    _tile_stored(1, block->out + TILE_COLUMNS, out_bytes);
    if (has_high_rows) {
        float *high_out = block->out + block->out_stride * AMX_TILE_ROWS;
        _tile_stored(2, high_out, out_bytes);
        _tile_stored(3, high_out + TILE_COLUMNS, out_bytes);
    }
}

KERNEL_INLINE void multiply_rows(const struct block *block, bool has_high_rows)
{
    clear_sums(has_high_rows);
    add_products(block, has_high_rows);
    store_sums(block, has_high_rows);
}

static void multiply_block(const struct block *block)
{
    bool has_high_rows = block->num_rows > AMX_TILE_ROWS;
    uint8_t low = (uint8_t)(has_high_rows ? AMX_TILE_ROWS : block->num_rows);
    uint8_t high = (uint8_t)(block->num_rows - low);
    const uint8_t tile_rows[AMX_NUM_TILES] = {
        low, low, high, high, low, high, AMX_TILE_ROWS, AMX_TILE_ROWS,
    };
    amx_configure(tile_rows);
    if (has_high_rows)
        multiply_rows(block, true);
    else
        multiply_rows(block, false);
}

void KERNEL(gemm_bf16)(const struct matrix *weights, int32_t panel, const struct activations *rows,
                       int32_t first_row, int32_t num_rows, float *out, int32_t out_stride,
                       struct panel_prefetch *prefetch)
{
    const bf16 *values = rows->values;
    for (int32_t i = 0; i < num_rows; i += BLOCK_ROWS) {
        int32_t rest = num_rows - i, row = first_row + i;
        struct block block = {
            .activations = values + (size_t)row * (size_t)rows->depth,
            .panel = matrix_panel(weights, panel),
            .is_first_pass = row == 0,
            .depth = rows->depth,
            .num_rows = rest < BLOCK_ROWS ? rest : BLOCK_ROWS,
            .out = out + (size_t)i * (size_t)out_stride,
            .out_stride = (size_t)out_stride,
            .prefetch = prefetch,
        };
        multiply_block(&block);
    }
}

#endif
