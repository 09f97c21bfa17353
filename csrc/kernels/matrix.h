/* matrix: the operands of every matrix product of a step.
 *
 * A product takes rows (activations, one row a token) times a weight matrix and gives one float32
 * row a token. Weights are stored in panels of 32 output columns, so that the innermost loop
 * reads them once, in order, in the form that the CPU's instructions want. With k the index along
 * the depth (the inputs) and c the column within the panel:
 *
 *   WEIGHTS_F32    [k][c]            float
 *   WEIGHTS_BF16   [k / 2][c][k % 2] bf16
 *   WEIGHTS_Q8     for each group of 32 k:  int8 codes [k / 4][c][k % 4], then float16 scale[c];
 *                  weight = scale * code                                  (1088 bytes a group)
 *   WEIGHTS_Q4     for each group of 32 k:  bytes [k / 8][c][k % 4], whose low half is the code of
 *                  k % 8 < 4 and whose high half that of k % 8 >= 4, then float16 scale[c], then
 *                  float16 minimum[c];  weight = scale * code + minimum    (640 bytes a group)
 *
 * Columns past num_columns, in the last panel, are zero weights. Panels start at a multiple of
 * PANEL_ALIGNMENT bytes. The same panels serve every CPU level.
 *
 * Activations, rows one after the other or, of bf16, with a gap between, are
 *
 *   ACTIVATIONS_F32    float values[row][k]
 *   ACTIVATIONS_BF16   bf16 values[row][k]
 *   ACTIVATIONS_Q8     int8 values[row][k], and for each group of 32 k a float scale[row][group]
 *                      and a float sum[row][group] = scale * (sum of the codes)
 *
 * Float weights are multiplied with activations of their own kind. Quantised ones have two
 * products: with ACTIVATIONS_Q8, of whole numbers, and with ACTIVATIONS_BF16, for which each weight
 * is unpacked and rounded to bf16. The first is faster with few rows, the second nearer to float32.
 */
#ifndef REALTIME_SERVE_MATRIX_H
#define REALTIME_SERVE_MATRIX_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PANEL_COLUMNS 32
#define PANEL_ALIGNMENT 64
#define GROUP_SIZE 32 /* values along the depth that share a scale; every depth is a multiple */

#define Q8_GROUP_BYTES (GROUP_SIZE * PANEL_COLUMNS + 2 * PANEL_COLUMNS)
#define Q4_GROUP_BYTES (GROUP_SIZE * PANEL_COLUMNS / 2 + 4 * PANEL_COLUMNS)

enum weight_format { WEIGHTS_F32, WEIGHTS_BF16, WEIGHTS_Q8, WEIGHTS_Q4, NUM_WEIGHT_FORMATS };

enum activation_format {
    ACTIVATIONS_F32,
    ACTIVATIONS_BF16,
    ACTIVATIONS_Q8,
    NUM_ACTIVATION_FORMATS
};

/* A weight matrix; borrows its panels. */
struct matrix {
    enum weight_format format;
    int32_t num_columns; /* outputs */
    int32_t depth;       /* inputs, a multiple of GROUP_SIZE */
    const void *panels;
    enum activation_format rows; /* that it is multiplied with */
};

/* Rows of inputs. */
struct activations {
    enum activation_format format;
    int32_t depth;  /* values a row, a multiple of GROUP_SIZE */
    int32_t stride; /* values from a row to the next: those of `depth`, or more of bf16 */
    void *values;   /* at a multiple of 64 bytes */
    float *scales;  /* ACTIVATIONS_Q8 only, as `sums` */
    float *sums;
};

/* The stride for a product of num_rows rows. A tile takes one cache line of 16 rows, and blocks of
 * tiles pass through the first cache while a panel stays there. Rows of bf16 are therefore an odd
 * number of lines apart, so that no two rows of a tile share a set of the cache: rows of 2048 values
 * without a gap all do, and take twice as long. Up to 32 rows are a single block; without a gap
 * these take a tenth less while panels arrive from memory. */
static inline int32_t activations_stride(enum activation_format format, int32_t depth,
                                         int32_t num_rows)
{
    const int32_t block_rows = 32, line_values = 64 / sizeof(uint16_t);
    bool is_even = depth / line_values % 2 == 0;
    bool has_gap = format == ACTIVATIONS_BF16 && num_rows > block_rows && is_even;
    return has_gap ? depth + line_values : depth;
}

static inline int32_t matrix_num_panels(int32_t num_columns)
{
    return (num_columns + PANEL_COLUMNS - 1) / PANEL_COLUMNS;
}

static inline size_t matrix_panel_bytes(enum weight_format format, int32_t depth)
{
    size_t num_groups = (size_t)depth / GROUP_SIZE;
    switch (format) {
    case WEIGHTS_F32:
        return num_groups * GROUP_SIZE * PANEL_COLUMNS * sizeof(float);
    case WEIGHTS_BF16:
        return num_groups * GROUP_SIZE * PANEL_COLUMNS * sizeof(uint16_t);
    case WEIGHTS_Q8:
        return num_groups * Q8_GROUP_BYTES;
    case WEIGHTS_Q4:
        return num_groups * Q4_GROUP_BYTES;
    case NUM_WEIGHT_FORMATS:
        break;
    }
    return 0;
}

/* Whether products unpack the weights to bf16. */
static inline bool matrix_is_unpacked(const struct matrix *matrix)
{
    bool is_quantized = matrix->format == WEIGHTS_Q8 || matrix->format == WEIGHTS_Q4;
    return is_quantized && matrix->rows == ACTIVATIONS_BF16;
}

static inline const void *matrix_panel(const struct matrix *matrix, int32_t panel)
{
    size_t panel_bytes = matrix_panel_bytes(matrix->format, matrix->depth);
    return (const char *)matrix->panels + (size_t)panel * panel_bytes;
}

#endif
