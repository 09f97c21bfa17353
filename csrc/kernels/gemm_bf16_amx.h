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
 * Blocks of 32 rows share a panel part by part along the depth, and leave their sums in `out`
 * between two parts:
 *
 *   for each part of the depth       its weights stay in the first cache
 *     for each block of rows         whose activations pass through
 *
 * So weights are loaded by TILELOADD and activations by TILELOADDT1, which leaves the cache to the
 * weights: with 512 rows the tiles compute for 80 % of the time, and for 60 % if both are loaded
 * alike. A block that is alone streams both: a panel in memory arrives a tenth faster. The order of
 * loads and products matters as much.
 *
 * A packed panel is unpacked in the course of the first block, UNPACK_AHEAD steps before its
 * weights are loaded: the tile that they are stored for cannot be loaded until they have left the
 * CPU's buffers. If they are not wanted again, the weights of a few steps take turns in the same
 * memory, and the caches keep more of the activations: a step of 32 rows takes up to a sixth less,
 * as its memory happens to lie. Few rows, a fiftieth slower so, have no use for it.
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
};

/* A part of the depth: 36 KiB of weights at most, so that 12 of the first cache are left. */
enum { MAX_PART_STEPS = 18 };

/* Where weights take turns: places are powers of 2. A part and what is unpacked ahead have to fit,
 * and two blocks of activations beside them. */
enum { PLACES_OF_ONE_BLOCK = 4, PLACES_OF_BLOCKS = 8, TURN_STEPS = PLACES_OF_BLOCKS - UNPACK_AHEAD };

/* Rows times one panel; those after the first 16 are its high rows. */
struct block {
    const bf16 *activations;
    size_t row_bytes;      /* of them, from a row to the next */
    const uint8_t *packed; /* the panel as it is stored, if it is packed */
    size_t group_bytes;    /* of it */
    bf16 *panel;           /* read only, if the panel is not packed */
    int32_t num_places;    /* steps of it that `panel` holds */
    bool is_first;         /* the panel is in memory, and not unpacked yet */
    int32_t num_steps;
    int32_t num_rows; /* 1 to BLOCK_ROWS */
    float *out;
    size_t out_stride;
    struct panel_prefetch *prefetch;
};

KERNEL_INLINE void configure_tiles(int32_t num_low_rows, int32_t num_high_rows)
{
    const uint64_t low = 0x0000000100000101, high = 0x0000010001010000, weights = 0x0101000000000000;
    amx_configure(low * (uint64_t)num_low_rows + high * (uint64_t)num_high_rows +
                  weights * AMX_TILE_ROWS);
}

/* ---- weights ---- */

/* num_places is all of them or a power of 2. */
KERNEL_INLINE bf16 *weights_of(const struct block *block, int32_t step)
{
    bool takes_turns = block->num_places < block->num_steps;
    int32_t place = takes_turns ? step & (block->num_places - 1) : step;
    return block->panel + (size_t)place * STEP_WEIGHTS;
}

/* All lines of a step at once, in order, and one step before it is loaded: the hardware's
 * prefetchers, which read further ahead, then keep pace. They lose track if the lines are asked for
 * earlier or past the panel's end: one row takes a sixth longer, and 32 a third. Without high rows
 * nothing else reads the panel; it arrives 4 % faster in the second cache.
 *
 * has_high_rows, shares_weights and unpack are constants wherever this and the next ones are
 * called. */
KERNEL_INLINE void prefetch_step(const bf16 *step, bool has_high_rows)
{
    for (size_t i = 0; i < STEP_WEIGHTS * sizeof(bf16); i += LINE_BYTES) {
        if (has_high_rows)
            _mm_prefetch((const char *)step + i, _MM_HINT_T0);
        else
            _mm_prefetch((const char *)step + i, _MM_HINT_T1);
    }
}

/* Past the panel's end there is nothing to unpack. The group after the one that is unpacked is
 * fetched for the same reason as above. */
KERNEL_INLINE void unpack_step(const struct block *block, int32_t step, unpack_group *unpack)
{
    const uint8_t *group = block->packed + (size_t)step * block->group_bytes;
    if (step + 1 < block->num_steps)
        for (size_t i = 0; i < block->group_bytes; i += LINE_BYTES)
            _mm_prefetch(group + block->group_bytes + i, _MM_HINT_T0);
    if (step < block->num_steps)
        unpack(group, weights_of(block, step));
}

/* The weights of a step that is about to be multiplied. */
KERNEL_INLINE const bf16 *ready_weights(const struct block *block, int32_t step,
                                        bool has_high_rows, unpack_group *unpack)
{
    const bf16 *weights = weights_of(block, step);
    if (unpack != NULL) {
        unpack_step(block, step + UNPACK_AHEAD, unpack);
        amx_expose();
    } else if (block->is_first && step + 1 < block->num_steps) {
        prefetch_step(weights + STEP_WEIGHTS, has_high_rows);
    }
    return weights;
}

/* ---- sums ---- */

KERNEL_INLINE void clear_sums(bool has_high_rows)
{
    _tile_zero(0);
    _tile_zero(1);
    if (has_high_rows) {
        _tile_zero(2);
        _tile_zero(3);
    }
}

KERNEL_INLINE void load_sums(const struct block *block)
{
    size_t out_bytes = block->out_stride * sizeof(float);
    const float *high_out = block->out + block->out_stride * AMX_TILE_ROWS;
    _tile_loadd(0, block->out, out_bytes);
    _tile_loadd(1, block->out + TILE_COLUMNS, out_bytes);
    _tile_loadd(2, high_out, out_bytes);
    _tile_loadd(3, high_out + TILE_COLUMNS, out_bytes);
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

/* ---- products ---- */

KERNEL_INLINE void load_and_multiply(const struct block *block, const bf16 *weights, int32_t step,
                                     bool has_high_rows, bool shares_weights)
{
    const bf16 *low_rows = block->activations + (size_t)step * STEP_DEPTH;
    const char *high_rows = (const char *)low_rows + block->row_bytes * AMX_TILE_ROWS;
    if (shares_weights)
        _tile_loadd(6, weights, PAIR_BYTES);
    else
        _tile_stream_loadd(6, weights, PAIR_BYTES);
    _tile_stream_loadd(4, low_rows, block->row_bytes);
    _tile_dpbf16ps(0, 4, 6);
    if (shares_weights)
        _tile_loadd(7, weights + 2 * TILE_COLUMNS, PAIR_BYTES);
    else
        _tile_stream_loadd(7, weights + 2 * TILE_COLUMNS, PAIR_BYTES);
    _tile_dpbf16ps(1, 4, 7);
    if (has_high_rows) {
        _tile_stream_loadd(5, high_rows, block->row_bytes);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
}

/* Of the steps from first_step up to end_step. */
KERNEL_INLINE void add_products(const struct block *block, int32_t first_step, int32_t end_step,
                                bool has_high_rows, bool shares_weights, unpack_group *unpack)
{
    for (int32_t step = 0; unpack != NULL && first_step == 0 && step < UNPACK_AHEAD; step++)
        unpack_step(block, step, unpack);
    for (int32_t step = first_step; step < end_step; step++) {
        const bf16 *weights = ready_weights(block, step, has_high_rows, unpack);
        if (has_high_rows)
            panel_prefetch_advance(block->prefetch);
        load_and_multiply(block, weights, step, has_high_rows, shares_weights);
    }
}

/* ---- a block alone ---- */

KERNEL_INLINE void multiply_rows(const struct block *block, bool has_high_rows,
                                 unpack_group *unpack)
{
    clear_sums(has_high_rows);
    add_products(block, 0, block->num_steps, has_high_rows, false, unpack);
    store_sums(block, has_high_rows);
}

KERNEL_INLINE void multiply_block(const struct block *block, unpack_group *unpack)
{
    bool has_high_rows = block->num_rows > AMX_TILE_ROWS;
    int32_t num_low = has_high_rows ? AMX_TILE_ROWS : block->num_rows;
    configure_tiles(num_low, block->num_rows - num_low);
    if (has_high_rows)
        multiply_rows(block, true, unpack);
    else
        multiply_rows(block, false, unpack);
}

/* ---- blocks that share a panel ---- */

/* The rows of `rows` from `first` on, up to a block of them. */
KERNEL_INLINE struct block block_of(const struct block *rows, int32_t first)
{
    struct block block = *rows;
    int32_t rest = rows->num_rows - first;
    block.activations += (size_t)first * rows->row_bytes / sizeof(bf16);
    block.out += (size_t)first * rows->out_stride;
    block.num_rows = rest < BLOCK_ROWS ? rest : BLOCK_ROWS;
    block.is_first = rows->is_first && first == 0;
    return block;
}

KERNEL_INLINE void multiply_part(const struct block *block, int32_t first_step, int32_t end_step,
                                 unpack_group *unpack)
{
    if (first_step == 0)
        clear_sums(true);
    else
        load_sums(block);
    add_products(block, first_step, end_step, true, true, unpack);
    store_sums(block, true);
}

/* As few parts as possible and these as even as possible. */
KERNEL_INLINE int32_t part_steps(const struct block *rows)
{
    if (rows->num_places < rows->num_steps)
        return TURN_STEPS;
    int32_t num_parts = (rows->num_steps + MAX_PART_STEPS - 1) / MAX_PART_STEPS;
    return (rows->num_steps + num_parts - 1) / num_parts;
}

/* A whole number of blocks. */
KERNEL_INLINE void multiply_blocks(const struct block *rows, unpack_group *unpack)
{
    int32_t num_steps = part_steps(rows);
    configure_tiles(AMX_TILE_ROWS, AMX_TILE_ROWS);
    for (int32_t step = 0; step < rows->num_steps; step += num_steps) {
        int32_t rest = rows->num_steps - step;
        int32_t end = step + (rest < num_steps ? rest : num_steps);
        for (int32_t row = 0; row < rows->num_rows; row += BLOCK_ROWS) {
            struct block block = block_of(rows, row);
            if (unpack != NULL && block.is_first)
                multiply_part(&block, step, end, unpack);
            else
                multiply_part(&block, step, end, NULL);
        }
    }
}

/* ---- panels ---- */

/* How many steps of an unpacked panel are kept. */
KERNEL_INLINE int32_t places_for(const struct gemm *gemm, int32_t num_steps)
{
    bool is_read_again = !(gemm->is_first && gemm->is_last) ||
                         (gemm->num_rows > BLOCK_ROWS && gemm->num_rows % BLOCK_ROWS != 0);
    if (is_read_again || gemm->num_rows <= AMX_TILE_ROWS)
        return num_steps;
    int32_t num_places = gemm->num_rows > BLOCK_ROWS ? PLACES_OF_BLOCKS : PLACES_OF_ONE_BLOCK;
    return num_steps < num_places ? num_steps : num_places;
}

KERNEL_INLINE struct block rows_of(const struct gemm *gemm, bool is_packed)
{
    const struct activations *rows = gemm->rows;
    const void *stored = matrix_panel(gemm->weights, gemm->panel);
    int32_t num_steps = rows->depth / STEP_DEPTH;
    return (struct block){
        .activations = (const bf16 *)rows->values + (size_t)gemm->first_row * (size_t)rows->stride,
        .row_bytes = (size_t)rows->stride * sizeof(bf16),
        .packed = stored,
        .group_bytes = matrix_panel_bytes(gemm->weights->format, GROUP_SIZE),
        .panel = is_packed ? gemm->unpacked : (void *)stored,
        .num_places = is_packed ? places_for(gemm, num_steps) : num_steps,
        .is_first = gemm->is_first,
        .num_steps = num_steps,
        .num_rows = gemm->num_rows,
        .out = gemm->out,
        .out_stride = (size_t)gemm->out_stride,
        .prefetch = gemm->prefetch,
    };
}

KERNEL_INLINE void multiply_alone(const struct block *block, unpack_group *unpack)
{
    if (unpack != NULL && block->is_first)
        multiply_block(block, unpack);
    else
        multiply_block(block, NULL);
}

/* Whether the first block goes through the panel alone. From memory, a deep panel arrives faster so
 * than part by part. */
KERNEL_INLINE bool begins_alone(const struct block *rows, unpack_group *unpack)
{
    return unpack == NULL && rows->is_first && rows->num_steps > MAX_PART_STEPS;
}

/* A gemm_panel (ops.h); `unpack` is NULL if the panels are those of bf16 weights. */
KERNEL_INLINE void multiply_panel(const struct gemm *gemm, unpack_group *unpack)
{
    struct block rows = rows_of(gemm, unpack != NULL);
    int32_t first_shared = begins_alone(&rows, unpack) ? BLOCK_ROWS : 0;
    int32_t num_shared = (gemm->num_rows - first_shared) / BLOCK_ROWS * BLOCK_ROWS;
    int32_t row = 0;
    while (row < gemm->num_rows) {
        struct block block = block_of(&rows, row);
        if (row == first_shared && num_shared > BLOCK_ROWS) {
            block.num_rows = num_shared;
            multiply_blocks(&block, unpack);
        } else {
            multiply_alone(&block, unpack);
        }
        row += block.num_rows;
    }
}

#endif
