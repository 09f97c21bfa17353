/* attention: softmax(q k / sqrt(head_dim)) v over a paged cache, and what its files share.
 *
 * Up to 16 queries, the query heads of a few rows, go together through the tokens of one
 * key-value head, so that a block of keys or values is read once for all of them. Tokens are taken
 * in parts of ATTENTION_PART_TOKENS:
 *
 *   scores   = queries x keys                                           multiply_keys
 *   greatest = the greatest score so far, this part's included
 *   weights  = e^(scores - greatest)                                    exponentiate
 *   total    = total x e^(old greatest - greatest) + sum of the weights
 *   output   = output x e^(old greatest - greatest) + weights x values  multiply_values
 *
 * and output / total after the last part is what one softmax over all tokens gives (Milakov and
 * Gimelshein 2018). A token past a row's position has the score minus infinity, so the weight 0: it
 * adds nothing to any sum, and a part of such tokens leaves all bits of a query as they were. That
 * is why a query's result does not depend on the rows that share its tile.
 *
 * What the levels do differently is behind struct attention_method:
 *
 *   attention_vec.c        both products by vectors, at any level
 *   attention_amx.c        both products by AMX tiles of bf16
 *   attention_amx_int8.c   both products by AMX tiles of bytes
 *   attention_rounded.c    queries and weights as bf16, which VDPBF16PS and AMX want
 *   attention_quantized.c  queries and weights as whole numbers, for a cache of such
 */
#ifndef REALTIME_SERVE_ATTENTION_H
#define REALTIME_SERVE_ATTENTION_H

#include "attention_scratch.h"
#include "kernels.h"

#define ATTENTION_PART_BLOCKS (ATTENTION_PART_TOKENS / KV_BLOCK_TOKENS)

/* The queries at work, and the part of the tokens that they are at. */
struct attention {
    int32_t head_dim;
    int32_t num_queries;                      /* 1 to ATTENTION_MAX_QUERIES */
    int32_t positions[ATTENTION_MAX_QUERIES]; /* of the queries' rows, in order */
    size_t offsets[ATTENTION_MAX_QUERIES];    /* of the queries in the tile, in floats */

    const char *keys; /* block 0 of the layer and head */
    const char *values;
    size_t block_bytes;
    size_t segment_bytes; /* of blocks; see kv_cache.h */
    const int32_t *blocks;   /* the part's, and those after it */
    int32_t num_blocks;      /* in the part, 1 to ATTENTION_PART_BLOCKS */
    int32_t num_blocks_left; /* in the part and after it */

    struct attention_scratch *scratch;
    void *queries; /* [query][head_dim], scaled; float, bf16 or codes, as the method wants */
    float *output; /* [query][head_dim] */
    void *workspace; /* ATTENTION_PART_TOKENS times head_dim bytes, for the method */
};

struct attention_method {
    /* Before the products of some queries; nothing else runs on the thread between these. NULL if
     * there is nothing to do. */
    void (*begin_products)(const struct attention *attention);

    /* Store a query times `scale`. */
    void (*store_query)(const struct attention *attention, int32_t query, const float *values,
                        float scale);

    /* Write the scores of all tokens of the part's blocks. */
    void (*multiply_keys)(const struct attention *attention);

    /* Make weights of a query's first num_tokens scores, which is a multiple of
     * ATTENTION_WEIGHTS_MULTIPLE, and give their sum. */
    float (*exponentiate)(const struct attention *attention, int32_t query, int32_t num_tokens,
                          float greatest);

    /* Add the part's weighted values to the output. */
    void (*multiply_values)(const struct attention *attention);
};

#define ATTENTION_WEIGHTS_MULTIPLE 32 /* a vector of bf16 */

extern const struct attention_method KERNEL(attention_f32);
extern const struct attention_method KERNEL(attention_bf16);
extern const struct attention_method KERNEL(attention_int8);

/* store_query and exponentiate of the methods that round to bf16; see attention_rounded.c. */
void KERNEL(attention_store_rounded)(const struct attention *attention, int32_t query,
                                     const float *values, float scale);
float KERNEL(attention_exponentiate_rounded)(const struct attention *attention, int32_t query,
                                             int32_t num_tokens, float greatest);

/* What the methods for KV_INT8 share; see attention_quantized.c. */
void KERNEL(attention_store_quantized)(const struct attention *attention, int32_t query,
                                       const float *values, float scale);
float KERNEL(attention_exponentiate_quantized)(const struct attention *attention, int32_t query,
                                               int32_t num_tokens, float greatest);

/* ---- blocks ---- */

static inline size_t attention_distance(const struct attention *attention, int32_t block)
{
    return kv_block_distance(attention->segment_bytes, attention->block_bytes,
                             attention->blocks[block]);
}

static inline const char *attention_keys(const struct attention *attention, int32_t block)
{
    return attention->keys + attention_distance(attention, block);
}

static inline const char *attention_values(const struct attention *attention, int32_t block)
{
    return attention->values + attention_distance(attention, block);
}

/* Blocks are read in the order keys of the part, values of the part, keys of the next part. These
 * give the block that is read after a block of keys, or of values: the products prefetch it, a few
 * lines at a time, as they proceed. (All lines of a block at once, or two blocks ahead and more,
 * cost up to a tenth of the bandwidth.) After the last block comes some block that was read. */
static inline const char *attention_after_keys(const struct attention *attention, int32_t block)
{
    return block + 1 < attention->num_blocks ? attention_keys(attention, block + 1)
                                             : attention_values(attention, 0);
}

static inline const char *attention_after_values(const struct attention *attention, int32_t block)
{
    if (block + 1 < attention->num_blocks)
        return attention_values(attention, block + 1);
    return attention_keys(attention, block + 1 < attention->num_blocks_left ? block + 1 : 0);
}

static inline void attention_prefetch(const char *address, int32_t num_bytes)
{
    for (int32_t i = 0; i < num_bytes; i += 64)
        __builtin_prefetch(address + i);
}

#endif
