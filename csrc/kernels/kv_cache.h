/* kv_cache: the keys and values of all sequences, in blocks of 16 tokens.
 *
 * A block holds, for one layer and one key-value head, 16 consecutive tokens of one sequence.
 * With t the token within the block and d the dimension within the head:
 *
 *   KV_F32    key [d][t]           value [t][d]            float
 *   KV_BF16   key [d / 2][t][d % 2]  value [t / 2][d][t % 2]   bf16
 *   KV_INT8   key [d / 4][t][d % 4]  value [t / 4][d][t % 4]   codes of 8 bits, after 16 scales
 *
 * so that both products of attention read a vector of tokens or of dimensions at once and never
 * add up across lanes. In KV_INT8 a token's key and its value have a float32 scale each, the first
 * 64 bytes of a block: a value is its code times its token's scale (codes.h). It is made of that
 * token alone, when it is written: what stands in a block does not depend on when its tokens came.
 *
 * Blocks lie in segments of 64: [block / 64][layer][head][block % 64]. Within a segment, attention
 * reads memory in order if a sequence's blocks are consecutive, as they mostly are; and segment by
 * segment, large pages come into use as sequences need them, not all at the first one.
 */
#ifndef REALTIME_SERVE_KV_CACHE_H
#define REALTIME_SERVE_KV_CACHE_H

#include <stddef.h>
#include <stdint.h>

#define KV_BLOCK_TOKENS 16
#define KV_SEGMENT_BLOCKS 64

enum kv_format { KV_F32, KV_BF16, KV_INT8, NUM_KV_FORMATS };

/* Borrows `keys` and `values`, each of kv_cache_bytes() bytes at a multiple of 64, zero at first. A
 * block's tokens are written in order, by one thread. */
struct kv_cache {
    enum kv_format format;
    int32_t num_layers;
    int32_t num_heads; /* key-value heads */
    int32_t head_dim;  /* a multiple of 32 */
    int32_t num_blocks;
    void *keys;
    void *values;
};

/* Of KV_INT8. */
#define KV_SCALES_BYTES (KV_BLOCK_TOKENS * sizeof(float)) /* the codes begin after them */
#define KV_GREATEST_CODE 127

static inline size_t kv_block_bytes(enum kv_format format, int32_t head_dim)
{
    size_t num_values = (size_t)KV_BLOCK_TOKENS * (size_t)head_dim;
    if (format == KV_INT8)
        return KV_SCALES_BYTES + num_values;
    return num_values * (format == KV_F32 ? sizeof(float) : sizeof(uint16_t));
}

/* Bytes of a block in all layers and heads: of its keys, as of its values. */
static inline size_t kv_block_bytes_in_all(const struct kv_cache *cache)
{
    return (size_t)cache->num_layers * (size_t)cache->num_heads *
           kv_block_bytes(cache->format, cache->head_dim);
}

static inline size_t kv_segment_bytes(const struct kv_cache *cache)
{
    return KV_SEGMENT_BLOCKS * kv_block_bytes_in_all(cache);
}

/* Bytes of all keys; the values take as many. The last segment is a whole one. */
static inline size_t kv_cache_bytes(const struct kv_cache *cache)
{
    size_t num_blocks = (size_t)cache->num_blocks;
    return (num_blocks + KV_SEGMENT_BLOCKS - 1) / KV_SEGMENT_BLOCKS * kv_segment_bytes(cache);
}

/* From block 0 of a layer and head to another block of it. */
static inline size_t kv_block_distance(size_t segment_bytes, size_t block_bytes, int32_t block)
{
    size_t segment = (size_t)block / KV_SEGMENT_BLOCKS;
    return segment * segment_bytes + (size_t)block % KV_SEGMENT_BLOCKS * block_bytes;
}

/* Where a block of a layer and head begins, in `keys` and in `values` alike. */
static inline size_t kv_block_offset(const struct kv_cache *cache, int32_t layer, int32_t head,
                                     int32_t block)
{
    size_t block_bytes = kv_block_bytes(cache->format, cache->head_dim);
    size_t run = (size_t)layer * (size_t)cache->num_heads + (size_t)head;
    return run * KV_SEGMENT_BLOCKS * block_bytes +
           kv_block_distance(kv_segment_bytes(cache), block_bytes, block);
}

#endif
