/* gemm_float: what gemm_f32 and gemm_bf16 share at the levels that multiply with vectors.
 *
 * A word is what a lane multiplies at once: 32 bits, a float32 value or a pair of bf16 values. Rows
 * and panels of both formats are then the same, [row][word] and [word][column], and so is the
 * product: for each word, in order, and each row, the word is repeated in all lanes and
 *
 *   sum[row][column] = multiply_add(weight[word][column], word[row], sum[row][column])
 *
 * A block of rows shares what is read of the panel. Wide vectors take all 32 columns at once,
 * narrow ones a slice of them, because the sums of a block are to stay in registers. The panel is
 * taken in chunks that stay in the first cache while all blocks and slices are multiplied by them;
 * the sums wait in `out` meanwhile. None of this changes the order in which a sum is added up.
 */
#ifndef REALTIME_SERVE_GEMM_FLOAT_H
#define REALTIME_SERVE_GEMM_FLOAT_H

#include <stdbool.h>

#include "ops.h"
#include "vec.h"

enum {
    WORD_BYTES = 4,
    LINE_BYTES = 64,
    COLUMNS_BYTES = PANEL_COLUMNS * WORD_BYTES, /* from a word of a column to the next */
    CHUNK_WORDS = 64,                           /* 8 KiB of the panel */
    SLICE_COLUMNS = 2 * VEC_LANES,
};

/* The rows of a block: 12 sums keep two multiply-adds a cycle busy, and with what is multiplied
 * they fill the 16 registers of SSE and AVX2. Where there are 32, more rows save loads. */
#if defined(__AVX512F__)
enum { BLOCK_ROWS = 12 };
#else
enum { BLOCK_ROWS = 6 };
#endif

/* How far ahead the first block reads a panel in memory, line by line, so that the hardware's
 * prefetchers keep pace. On Sapphire Rapids 1 and 2 KiB are alike, and 4 are a fifth slower. */
enum { PREFETCH_BYTES = 2048 };

/* Rows times some words of a panel, added to `out`. */
struct product {
    const char *rows;
    size_t row_bytes; /* from a row to the next */
    int32_t num_rows;
    int32_t num_words;
    const char *weights;
    bool prefetches;
    float *out;
    size_t out_stride;
};

typedef vec multiply_add(vec_u32 weights, vec_u32 word, vec sums);

KERNEL_INLINE vec multiply_add_f32(vec_u32 weights, vec_u32 value, vec sums)
{
    return vec_fma((vec)weights, (vec)value, sums);
}

KERNEL_INLINE vec_u32 load_words(const char *words)
{
    vec_u32 result;
    memcpy(&result, words, sizeof result);
    return result;
}

KERNEL_INLINE vec_u32 repeat_word(const char *word)
{
    uint32_t bits;
    memcpy(&bits, word, sizeof bits);
    return bits - (vec_u32){0};
}

KERNEL_INLINE void prefetch_columns(const char *columns)
{
    for (int i = 0; i < COLUMNS_BYTES; i += LINE_BYTES)
        __builtin_prefetch(columns + i);
}

/* num_rows is a constant wherever this is called, and everything up to multiply_block is inlined
 * and unrolled. Without prefetching, what is asked for is about to be loaded anyway. */
KERNEL_INLINE void add_products(const struct product *product, int column, int num_rows,
                                multiply_add *multiply, vec sums[][2])
{
    const char *weights = product->weights, *words = product->rows;
    size_t ahead = product->prefetches && column == 0 ? PREFETCH_BYTES : 0;
    for (int i = 0; i < product->num_words; i++) {
        const char *slice = weights + WORD_BYTES * column;
        vec_u32 left = load_words(slice), right = load_words(slice + sizeof left);
        prefetch_columns(weights + ahead);
#pragma GCC unroll 12
        for (int row = 0; row < num_rows; row++) {
            vec_u32 word = repeat_word(words + (size_t)row * product->row_bytes);
            sums[row][0] = multiply(left, word, sums[row][0]);
            sums[row][1] = multiply(right, word, sums[row][1]);
        }
        weights += COLUMNS_BYTES;
        words += WORD_BYTES;
    }
}

KERNEL_INLINE void multiply_slice(const struct product *product, int column, int num_rows,
                                  multiply_add *multiply)
{
    vec sums[BLOCK_ROWS][2];
    float *out = product->out + column;
#pragma GCC unroll 12
    for (int row = 0; row < num_rows; row++) {
        sums[row][0] = vec_load(out + (size_t)row * product->out_stride);
        sums[row][1] = vec_load(out + (size_t)row * product->out_stride + VEC_LANES);
    }
    add_products(product, column, num_rows, multiply, sums);
#pragma GCC unroll 12
    for (int row = 0; row < num_rows; row++) {
        vec_store(out + (size_t)row * product->out_stride, sums[row][0]);
        vec_store(out + (size_t)row * product->out_stride + VEC_LANES, sums[row][1]);
    }
}

KERNEL_INLINE void multiply_rows(const struct product *product, int num_rows,
                                 multiply_add *multiply)
{
    for (int column = 0; column < PANEL_COLUMNS; column += SLICE_COLUMNS)
        multiply_slice(product, column, num_rows, multiply);
}

/* At most BLOCK_ROWS rows. */
KERNEL_INLINE void multiply_block(const struct product *block, multiply_add *multiply)
{
    switch (block->num_rows) {
    case 1:
        return multiply_rows(block, 1, multiply);
    case 2:
        return multiply_rows(block, 2, multiply);
    case 3:
        return multiply_rows(block, 3, multiply);
    case 4:
        return multiply_rows(block, 4, multiply);
    case 5:
        return multiply_rows(block, 5, multiply);
    case 6:
        return multiply_rows(block, 6, multiply);
#if defined(__AVX512F__)
    case 7:
        return multiply_rows(block, 7, multiply);
    case 8:
        return multiply_rows(block, 8, multiply);
    case 9:
        return multiply_rows(block, 9, multiply);
    case 10:
        return multiply_rows(block, 10, multiply);
    case 11:
        return multiply_rows(block, 11, multiply);
    case 12:
        return multiply_rows(block, 12, multiply);
#endif
    }
}

/* Any number of rows, in as few blocks as possible and these as even as possible. */
KERNEL_INLINE void multiply_chunk(const struct product *product, multiply_add *multiply)
{
    int32_t num_blocks = (product->num_rows + BLOCK_ROWS - 1) / BLOCK_ROWS;
    for (int32_t i = 0; i < num_blocks; i++) {
        int32_t begin = product->num_rows * i / num_blocks;
        int32_t end = product->num_rows * (i + 1) / num_blocks;
        struct product block = *product;
        block.rows += (size_t)begin * product->row_bytes;
        block.num_rows = end - begin;
        block.prefetches = product->prefetches && i == 0;
        block.out += (size_t)begin * product->out_stride;
        multiply_block(&block, multiply);
    }
}

KERNEL_INLINE void clear_rows(float *out, size_t out_stride, int32_t num_rows)
{
    for (int32_t row = 0; row < num_rows; row++)
        memset(out + (size_t)row * out_stride, 0, PANEL_COLUMNS * sizeof(float));
}

/* A gemm_panel (ops.h). */
KERNEL_INLINE void multiply_panel(const struct gemm *gemm, multiply_add *multiply)
{
    const struct activations *rows = gemm->rows;
    size_t panel_bytes = matrix_panel_bytes(gemm->weights->format, rows->depth);
    int32_t num_words = (int32_t)(panel_bytes / COLUMNS_BYTES);
    size_t value_bytes = (size_t)num_words * WORD_BYTES / (size_t)rows->depth;
    size_t row_bytes = (size_t)rows->stride * value_bytes;
    struct product chunk = {
        .rows = (const char *)rows->values + (size_t)gemm->first_row * row_bytes,
        .row_bytes = row_bytes,
        .num_rows = gemm->num_rows,
        .weights = matrix_panel(gemm->weights, gemm->panel),
        .prefetches = gemm->is_first,
        .out = gemm->out,
        .out_stride = (size_t)gemm->out_stride,
    };
    clear_rows(chunk.out, chunk.out_stride, chunk.num_rows);
    for (int32_t rest = num_words; rest > 0; rest -= chunk.num_words) {
        chunk.num_words = rest < CHUNK_WORDS ? rest : CHUNK_WORDS;
        multiply_chunk(&chunk, multiply);
        chunk.rows += (size_t)chunk.num_words * WORD_BYTES;
        chunk.weights += (size_t)chunk.num_words * COLUMNS_BYTES;
    }
}

#endif
