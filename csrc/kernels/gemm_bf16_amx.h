/* gemm_bf16_amx: rows of bf16 by AMX tiles: up to 32 rows times the 32 columns of a panel at once.
 *
 *                   columns 0-15     columns 16-31
 *   rows  0-15         sum 0            sum 1         <- activations 4
 *   rows 16-31         sum 2            sum 3         <- activations 5
 *                        ^ weights 6      ^ weights 7
 *
 * A step goes 32 values along the depth: to each sum, TDPBF16PS adds 16 pairs of products in
 * order. Activations and panels are stored as tiles want them; few rows take tiles of few rows.
 *
 * A packed panel is unpacked in the course of the first pass, UNPACK_AHEAD steps before its weights
 * are loaded: the tile that they are stored for cannot be loaded until they have left the CPU's
 * buffers. The other passes find it unpacked. If there is no other, the weights of a few steps take
 * turns in the same memory, and the caches keep more of the activations: a step of 32 rows
 * takes up to a sixth less, as its memory happens to lie. Few rows, a fiftieth slower so, have no
 * use for it.
 *
 * All loads of operands are streaming ones (TILELOADDT1). A panel and 32 rows together do not fit
 * the first cache, and with common loads each evicts the other: 256 rows take a tenth longer. A
 * panel in memory arrives a tenth faster, too. The order of loads and products matters as much.
 */
#ifndef REALTIME_SERVE_GEMM_BF16_AMX_H
#define REALTIME_SERVE_GEMM_BF16_AMX_H

#include <stdbool.h>

#include "amx.h"
#include "bf16.h"
#include "kernels.h"
#include "unpack_group.h"
#include "vec.h"

enum {
    STEP_DEPTH = AMX_ROW_BYTES / sizeof(bf16), /* a group of packed weights */
    STEP_WEIGHTS = STEP_DEPTH * PANEL_COLUMNS,
    BLOCK_ROWS = 2 * AMX_TILE_ROWS,
    TILE_COLUMNS = AMX_ROW_BYTES / sizeof(float),
    PAIR_BYTES = PANEL_COLUMNS * 2 * sizeof(bf16), /* between the rows of a tile of weights */
    LINE_BYTES = 64,
    UNPACK_AHEAD = 2,
    NUM_RECENT_STEPS = 4, /* more than UNPACK_AHEAD, and a power of 2 */
};

/* Rows times one panel; those after the first 16 are its high rows. */
struct block {
    const bf16 *activations;
    const uint8_t *packed; /* the panel as it is stored, if it is packed */
    size_t group_bytes;    /* of it */
    bf16 *panel;           /* read only, if the panel is not packed */
    bool is_kept;          /* all of it, where it is unpacked */
    bool is_first_pass;    /* the panel is in memory, not in a cache */
    int32_t depth;
    int32_t num_rows; /* 1 to BLOCK_ROWS */
    float *out;
    size_t out_stride;
    struct panel_prefetch *prefetch;
};

/* has_high_rows and unpack are constants wherever this and the next ones are called. */
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
    for (size_t i = 0; i < STEP_WEIGHTS * sizeof(bf16); i += LINE_BYTES) {
        if (has_high_rows)
            _mm_prefetch((const char *)step + i, _MM_HINT_T0);
        else
            _mm_prefetch((const char *)step + i, _MM_HINT_T1);
    }
}

KERNEL_INLINE bf16 *weights_of(const struct block *block, int32_t step, unpack_group *unpack)
{
    bool takes_turns = unpack != NULL && !block->is_kept;
    int32_t place = takes_turns ? step % NUM_RECENT_STEPS : step;
    return block->panel + (size_t)place * STEP_WEIGHTS;
}

/* Past the panel's end there is nothing to unpack. The group after the one that is unpacked is
 * fetched for the same reason as above. */
KERNEL_INLINE void unpack_step(const struct block *block, int32_t step, unpack_group *unpack)
{
    int32_t num_steps = block->depth / STEP_DEPTH;
    const uint8_t *group = block->packed + (size_t)step * block->group_bytes;
    if (step + 1 < num_steps)
        for (size_t i = 0; i < block->group_bytes; i += LINE_BYTES)
            _mm_prefetch(group + block->group_bytes + i, _MM_HINT_T0);
    if (step < num_steps)
        unpack(group, weights_of(block, step, unpack));
}

KERNEL_INLINE void load_and_multiply(const struct block *block, const bf16 *weights, int32_t k,
                                     bool has_high_rows)
{
    size_t row_bytes = (size_t)block->depth * sizeof(bf16);
    const bf16 *low_rows = block->activations + k;
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

KERNEL_INLINE void add_products(const struct block *block, bool has_high_rows,
                                unpack_group *unpack)
{
    int32_t num_steps = block->depth / STEP_DEPTH;
    for (int32_t step = 0; unpack != NULL && step < UNPACK_AHEAD; step++)
        unpack_step(block, step, unpack);
    for (int32_t step = 0; step < num_steps; step++) {
        const bf16 *weights = weights_of(block, step, unpack);
        if (unpack != NULL) {
            unpack_step(block, step + UNPACK_AHEAD, unpack);
            amx_expose();
        } else if (block->is_first_pass && step + 1 < num_steps) {
            prefetch_step(weights + STEP_WEIGHTS, has_high_rows);
        }
        if (has_high_rows)
            panel_prefetch_advance(block->prefetch);
        load_and_multiply(block, weights, step * STEP_DEPTH, has_high_rows);
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

KERNEL_INLINE void multiply_rows(const struct block *block, bool has_high_rows,
                                 unpack_group *unpack)
{
    clear_sums(has_high_rows);
    add_products(block, has_high_rows, unpack);
    store_sums(block, has_high_rows);
}

KERNEL_INLINE void multiply_block(const struct block *block, unpack_group *unpack)
{
    bool has_high_rows = block->num_rows > AMX_TILE_ROWS;
    uint8_t low = (uint8_t)(has_high_rows ? AMX_TILE_ROWS : block->num_rows);
    uint8_t high = (uint8_t)(block->num_rows - low);
    const uint8_t tile_rows[AMX_NUM_TILES] = {
        low, low, high, high, low, high, AMX_TILE_ROWS, AMX_TILE_ROWS,
    };
    amx_configure(tile_rows);
    if (has_high_rows)
        multiply_rows(block, true, unpack);
    else
        multiply_rows(block, false, unpack);
}

/* A gemm_panel (ops.h); `unpack` is NULL if the panels are those of bf16 weights. */
KERNEL_INLINE void multiply_panel(const struct matrix *weights, int32_t panel,
                                  const struct activations *rows, int32_t first_row,
                                  int32_t num_rows, float *out, int32_t out_stride,
                                  void *unpacked, struct panel_prefetch *prefetch,
                                  unpack_group *unpack)
{
    const void *stored = matrix_panel(weights, panel);
    for (int32_t i = 0; i < num_rows; i += BLOCK_ROWS) {
        int32_t row = first_row + i, rest = num_rows - i;
        int32_t block_rows = rest < BLOCK_ROWS ? rest : BLOCK_ROWS;
        struct block block = {
            .activations = (const bf16 *)rows->values + (size_t)row * (size_t)rows->depth,
            .packed = stored,
            .group_bytes = matrix_panel_bytes(weights->format, GROUP_SIZE),
            .panel = unpack != NULL ? unpacked : (void *)stored,
            .is_kept = block_rows <= AMX_TILE_ROWS || row + block_rows != rows->num_rows,
            .is_first_pass = row == 0,
            .depth = rows->depth,
            .num_rows = block_rows,
            .out = out + (size_t)i * (size_t)out_stride,
            .out_stride = (size_t)out_stride,
            .prefetch = prefetch,
        };
        if (unpack != NULL && row == 0)
            multiply_block(&block, unpack);
        else
            multiply_block(&block, NULL);
    }
}

#endif
