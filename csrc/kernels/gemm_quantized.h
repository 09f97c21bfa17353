/* gemm_quantized: what gemm_q8 and gemm_q4 share at the levels that multiply with vectors.
 *
 * A group of 32 products has one scale a column and one scale a row, so a result is
 *
 *   sum over groups of  (scale[column] * scale[row]) * dot  (+ minimum[column] * sum[row])
 *
 * where dot, the product of the codes, is a whole number below 2^20 and exact in float32. Each
 * term is one vec_fma, in the order of the groups; the term with the minimum comes second.
 *
 * A block of rows shares what is read and unpacked of a group. Wide vectors take the whole panel
 * at once; narrow ones take a slice of its columns, because the sums of a block are to stay in
 * registers, and read the panel once for each slice.
 */
#ifndef REALTIME_SERVE_GEMM_QUANTIZED_H
#define REALTIME_SERVE_GEMM_QUANTIZED_H

#include <stdbool.h>

#include "kernels.h"
#include "vec.h"
#include "vec_float16.h"

enum { SLICE_VECS = 2, SLICE_COLUMNS = SLICE_VECS * VEC_LANES };

/* The rows of a block: as many as the registers allow. With 8 instead of 7, gcc moves sums to and
 * fro, and Q4 takes a tenth longer. */
#if defined(__AVX512F__)
enum { BLOCK_ROWS = 7 };
#else
enum { BLOCK_ROWS = 4 };
#endif

/* A prefetch has to be issued this early to arrive in time from memory. It goes to the second
 * cache, which waits for more lines at a time than the first can. */
#define PREFETCH_BYTES 2048

/* Up to BLOCK_ROWS rows times one panel. */
struct block {
    const uint8_t *panel;
    size_t group_bytes;
    int32_t num_groups;
    const int8_t *codes; /* rows are depth apart */
    size_t depth;
    const float *scales; /* rows are num_groups apart, as in sums */
    const float *sums;
    float *out;
    size_t out_stride;
    bool prefetches;
};

/* dots[row][i] = the products of a group's codes with those of `num_rows` rows, which are depth
 * bytes apart, for the columns of the slice. `slice` is where its first column's codes begin. */
typedef void group_dots(const uint8_t *slice, const int8_t *codes, size_t depth, int num_rows,
                        vec_i32 dots[][SLICE_VECS]);

/* sums += a group's term. `scales` is where the float16 scales of the slice's columns begin; the
 * minimums of Q4 stand PANEL_COLUMNS behind them. */
KERNEL_INLINE void add_group(const struct block *block, int32_t group, const uint8_t *scales,
                             int num_rows, bool has_minimum, vec_i32 dots[][SLICE_VECS],
                             vec sums[][SLICE_VECS])
{
    for (int i = 0; i < SLICE_VECS; i++) {
        const uint8_t *halves = scales + (size_t)i * VEC_LANES * sizeof(float16);
        vec column_scale = vec_load_float16(halves);
        vec minimum = vec_set1(0.0f);
        if (has_minimum)
            minimum = vec_load_float16(halves + PANEL_COLUMNS * sizeof(float16));
        for (int row = 0; row < num_rows; row++) {
            size_t index = (size_t)row * (size_t)block->num_groups + (size_t)group;
            vec scale = column_scale * block->scales[index];
            vec dot = __builtin_convertvector(dots[row][i], vec);
            sums[row][i] = vec_fma(dot, scale, sums[row][i]);
            if (has_minimum)
                sums[row][i] = vec_fma(minimum, vec_set1(block->sums[index]), sums[row][i]);
        }
    }
}

/* Stays within the panel: the next one may be another thread's. */
KERNEL_INLINE void prefetch_part(const struct block *block, const uint8_t *part, size_t num_bytes)
{
    if (part + num_bytes <= block->panel + (size_t)block->num_groups * block->group_bytes)
        for (size_t i = 0; i < num_bytes; i += 64)
            __builtin_prefetch(part + i, 0, 2);
}

/* num_rows is a constant wherever this is called, and everything below is inlined and unrolled. */
KERNEL_INLINE void multiply_slice(const struct block *block, int first_column, int num_rows,
                                  group_dots *dots_of, bool has_minimum)
{
    const size_t code_bytes = (size_t)GROUP_SIZE * PANEL_COLUMNS / (has_minimum ? 2 : 1);
    bool prefetches = block->prefetches && first_column == 0;
    vec sums[BLOCK_ROWS][SLICE_VECS] = {{{0}}};
    if (prefetches)
        prefetch_part(block, block->panel, PREFETCH_BYTES);
    for (int32_t group = 0; group < block->num_groups; group++) {
        const uint8_t *weights = block->panel + (size_t)group * block->group_bytes;
        vec_i32 dots[BLOCK_ROWS][SLICE_VECS] = {{{0}}};
        if (prefetches)
            prefetch_part(block, weights + PREFETCH_BYTES, block->group_bytes);
        dots_of(weights + 4 * first_column, block->codes + (size_t)group * GROUP_SIZE,
                block->depth, num_rows, dots);
        add_group(block, group, weights + code_bytes + sizeof(float16) * (size_t)first_column,
                  num_rows, has_minimum, dots, sums);
    }
    for (int row = 0; row < num_rows; row++)
        for (int i = 0; i < SLICE_VECS; i++)
            vec_store(block->out + (size_t)row * block->out_stride + first_column + i * VEC_LANES,
                      sums[row][i]);
}

KERNEL_INLINE void multiply_rows(const struct block *block, int num_rows, group_dots *dots_of,
                                 bool has_minimum)
{
    for (int column = 0; column < PANEL_COLUMNS; column += SLICE_COLUMNS)
        multiply_slice(block, column, num_rows, dots_of, has_minimum);
}

KERNEL_INLINE void multiply_block(const struct block *block, int num_rows, group_dots *dots_of,
                                  bool has_minimum)
{
    switch (num_rows) {
    case 1:
        return multiply_rows(block, 1, dots_of, has_minimum);
    case 2:
        return multiply_rows(block, 2, dots_of, has_minimum);
    case 3:
        return multiply_rows(block, 3, dots_of, has_minimum);
    case 4:
        return multiply_rows(block, 4, dots_of, has_minimum);
#if defined(__AVX512F__)
    case 5:
        return multiply_rows(block, 5, dots_of, has_minimum);
    case 6:
        return multiply_rows(block, 6, dots_of, has_minimum);
    case 7:
        return multiply_rows(block, 7, dots_of, has_minimum);
#endif
    }
}

/* A gemm_panel (ops.h), in as few blocks as possible and these as even as possible. */
KERNEL_INLINE void multiply_panel(const struct gemm *gemm, group_dots *dots_of, bool has_minimum)
{
    const struct activations *rows = gemm->rows;
    size_t num_groups = (size_t)rows->depth / GROUP_SIZE;
    int32_t num_blocks = (gemm->num_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    for (int32_t i = 0; i < num_blocks; i++) {
        int32_t begin = gemm->num_rows * i / num_blocks;
        int32_t end = gemm->num_rows * (i + 1) / num_blocks;
        size_t row = (size_t)(gemm->first_row + begin);
        struct block block = {
            .panel = matrix_panel(gemm->weights, gemm->panel),
            .group_bytes = matrix_panel_bytes(gemm->weights->format, GROUP_SIZE),
            .num_groups = (int32_t)num_groups,
            .codes = (const int8_t *)rows->values + row * (size_t)rows->stride,
            .depth = (size_t)rows->stride,
            .scales = rows->scales + row * num_groups,
            .sums = rows->sums + row * num_groups,
            .out = gemm->out + (size_t)begin * (size_t)gemm->out_stride,
            .out_stride = (size_t)gemm->out_stride,
            .prefetches = gemm->is_first && i == 0,
        };
        multiply_block(&block, end - begin, dots_of, has_minimum);
    }
}

#endif
