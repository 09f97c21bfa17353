/* ops: the kernels of one CPU level, behind one table, and the choice of the level.
 *
 * Every kernel is pure: it reads its arguments and writes its output, allocates nothing, keeps
 * nothing and may run on any thread. What it computes for a row depends on that row only, never on
 * how many rows stand beside it or which thread runs it: sums along the depth run in one fixed
 * order. The same request therefore gives the same bits alone and in any batch, on one level.
 *
 * All float buffers are aligned to 64 bytes where they begin; rows of a width that is a multiple
 * of 32 are, too.
 */
#ifndef REALTIME_SERVE_OPS_H
#define REALTIME_SERVE_OPS_H

#include <stdbool.h>
#include <stdint.h>

#include "kv_cache.h"
#include "matrix.h"
#include "panel_prefetch.h"
#include "sampler.h"

enum cpu_level {
    CPU_PORTABLE,
    CPU_AVX2,
    CPU_AVX512,
    CPU_AVX512_BF16,
    CPU_AMX,
    NUM_CPU_LEVELS
};

/* Some rows times one panel: out[row][column] for its 32 columns and rows first_row to
 * first_row + num_rows - 1, where row counts from 0 in `out`, whose rows are out_stride floats
 * apart. Overwrites.
 *
 * If quantised weights meet rows of bf16, the first call for a panel leaves it as bf16 weights in
 * `unpacked`, where the next ones have to find it; one that is the last, too, need not. In other
 * cases `unpacked` is not used. Meanwhile `prefetch`, if it is not NULL, is advanced by a step for
 * each 32 rows and GROUP_SIZE values along the depth, where the level gains by it. */
struct gemm {
    const struct matrix *weights;
    int32_t panel;
    bool is_first; /* of the calls for this panel: it is in memory, for the next in a cache */
    bool is_last;
    const struct activations *rows;
    int32_t first_row;
    int32_t num_rows;
    float *out;
    int32_t out_stride;
    void *unpacked; /* aligned to 64 bytes */
    struct panel_prefetch *prefetch;
};

typedef void gemm_panel(const struct gemm *gemm);

/* Round `count` float values, a multiple of 32, into row `row` from column `first_column` on, a
 * multiple of 32. Q8: scale = greatest magnitude / 127, codes to the nearest integer (ties to
 * even); a group of zeros has scale 0 and codes 0. */
typedef void store_activations(const struct activations *rows, int32_t row, int32_t first_column,
                               const float *values, int32_t count);

/* Some rows of a product's result, and the columns of some panels. */
struct product_tile {
    int32_t first_row;
    int32_t num_rows;
    int32_t first_panel;
    int32_t num_panels;
    int32_t stride; /* floats from a row to the next */
    float *values;
};

/* silu(gate) * up of a tile whose two panels are a gate and its up, rounded into the tile's rows of
 * `rows`, 32 columns from first_column on. gate_bias and up_bias, 32 values each, are added before;
 * NULL is none. */
typedef void swiglu_tile(const struct product_tile *tile, const float *gate_bias,
                         const float *up_bias, const struct activations *rows,
                         int32_t first_column);

/* Add a tile to its rows and columns of `sums`, whose rows are `width` floats. Before, `biases`, of
 * all columns, are added to the tile; NULL is none. */
typedef void add_product_tile(const struct product_tile *tile, const float *biases, float *sums,
                              int32_t width);

/* Turn dimension i of each row of a tile, which is a head of some tokens, with dimension
 * i + head_dim / 2 by the angle whose cosine and sine are cosines[row][i] and sines[row][i],
 * i < head_dim / 2. The rows of `out`, which may be the tile's, are out_stride floats apart. */
typedef void rotate_tile(const struct product_tile *tile, const float *cosines, const float *sines,
                         float *out, int32_t out_stride);

/* Write a tile, a head of the keys or the values of some tokens: row i's to slot
 * positions[i] % KV_BLOCK_TOKENS of block blocks[i]. A value in slot 0 clears those of the other
 * slots. Tokens that follow each other in a block cost the least. */
typedef void kv_write_tile(const struct kv_cache *cache, int32_t layer, int32_t head,
                           const int32_t *blocks, const int32_t *positions,
                           const struct product_tile *tile);

/* A tile of queries of one sequence: rows at consecutive positions, all query heads that share one
 * key-value head. Row i attends to tokens 0 to first_position + i, whose keys and values are in
 * the cache already. */
struct attention_tile {
    int32_t layer;
    int32_t kv_head;
    int32_t group;               /* query heads of the key-value head */
    int32_t first_position;
    int32_t num_rows;            /* 1 to ATTENTION_MAX_ROWS(group) */
    const int32_t *block_table;  /* block of tokens 16 i to 16 i + 15, for every token attended */
    const float *queries;        /* first row and head; heads are head_dim apart */
    float *out;                  /* likewise */
    int32_t row_stride;          /* floats between rows, in queries and in out */
};

/* Rows of a tile, so that rows times heads are at most 16 (one AMX tile), but at least one row. */
#define ATTENTION_MAX_QUERIES 16
#define ATTENTION_MAX_ROWS(group) \
    ((group) >= ATTENTION_MAX_QUERIES ? 1 : ATTENTION_MAX_QUERIES / (group))

/* Keys and values are taken in parts of this many tokens, counted from position 0, each with a
 * softmax of its own that is merged into the last (Milakov and Gimelshein 2018): the scratch memory
 * is bounded, and the order of the sums depends on positions only. */
#define ATTENTION_PART_TOKENS 256

struct kernel_ops {
    enum cpu_level level;

    gemm_panel *gemm[NUM_WEIGHT_FORMATS][NUM_ACTIVATION_FORMATS]; /* NULL: there is none */
    store_activations *store[NUM_ACTIVATION_FORMATS];
    swiglu_tile *swiglu[NUM_ACTIVATION_FORMATS];

    /* out[i] = x[i] * weight[i] / sqrt(mean of x squared + epsilon); out may be x. size is a
     * multiple of 32. */
    void (*rms_norm)(const float *x, const float *weight, float epsilon, int32_t size, float *out);

    rotate_tile *rotate;
    add_product_tile *add_tile;

    /* x[i] += y[i]; count is a multiple of 32. */
    void (*add)(float *x, const float *y, int32_t count);

    kv_write_tile *kv_write_keys;
    kv_write_tile *kv_write_values;

    /* softmax(q k / sqrt(head_dim)) v for a tile. `scratch` has attention_scratch_bytes(). */
    void (*attend[NUM_KV_FORMATS])(const struct kv_cache *cache, const struct attention_tile *tile,
                                   void *scratch);

    /* Choose the next token of a row; see sampler.h. */
    sample_row *sample;
};

/* Bytes of scratch that `attend` needs for a tile of this shape, on every level. */
size_t attention_scratch_bytes(int32_t group, int32_t head_dim);

/* The highest level that this CPU and this build have. The first call asks the operating system
 * for the AMX registers where there are some; without them the level is the next lower one. */
enum cpu_level cpu_level_best(void);

/* "portable", "avx2", "avx512", "avx512_bf16", "amx". */
const char *cpu_level_name(enum cpu_level level);

/* The kernels of a level; NULL if this build has none for it. The caller sees to it that the CPU
 * can execute them. */
const struct kernel_ops *kernel_ops_for(enum cpu_level level);

#endif
