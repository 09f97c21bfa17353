/* kv_transpose: words of some tokens, one token after the other, into lines of a word each.
 *
 * Where a vector is a line, a square of 16 tokens and 16 words is transposed in registers by
 * swapping, for distances of 1, 2, 4 and 8, what lies that far beyond the diagonal:
 *
 *   a b      a c
 *   c d  ->  b d     for every two tokens that are so far apart, and every two words
 */
#ifndef REALTIME_SERVE_KV_TRANSPOSE_H
#define REALTIME_SERVE_KV_TRANSPOSE_H

#include "kv_cache.h"
#include "vec.h"

#define KV_SQUARE_WORDS 16

struct kv_square {
    _Alignas(64) uint32_t words[KV_BLOCK_TOKENS][KV_SQUARE_WORDS]; /* [token][word] */
};

KERNEL_INLINE void kv_store_words(const uint32_t *words, int32_t num_words, uint32_t *lines)
{
    for (int32_t i = 0; i < num_words; i++)
        lines[i * KV_BLOCK_TOKENS] = words[i];
}

#if VEC_LANES == KV_SQUARE_WORDS

/* From this many tokens on, a whole square takes less time than its tokens one by one. */
#define KV_SQUARE_TOKENS 4

/* Swap what lies `distance` beyond the diagonal; distance is a constant. */
KERNEL_INLINE void kv_swap(vec_u32 rows[KV_BLOCK_TOKENS], uint32_t distance)
{
    const vec_u32 lane = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const vec_u32 is_upper = (lane & distance) != 0; /* -1 or 0 */
    const vec_u32 low_from = lane + (is_upper & (VEC_LANES - distance));
    const vec_u32 high_from = low_from + distance;
#pragma GCC unroll 16
    for (uint32_t i = 0; i < KV_BLOCK_TOKENS; i++) {
        if (i & distance)
            continue;
        vec_u32 low = rows[i], high = rows[i + distance];
        rows[i] = __builtin_shuffle(low, high, low_from);
        rows[i + distance] = __builtin_shuffle(low, high, high_from);
    }
}

/* Rows past the last token are transposed with the others and not stored. */
KERNEL_INLINE void kv_store_square(const struct kv_square *square, int32_t num_tokens,
                                   int32_t num_words, uint32_t *lines)
{
    vec_u32 rows[KV_BLOCK_TOKENS];
    memcpy(rows, square->words, sizeof rows);
    kv_swap(rows, 1);
    kv_swap(rows, 2);
    kv_swap(rows, 4);
    kv_swap(rows, 8);
    __mmask16 tokens = (__mmask16)((1u << num_tokens) - 1);
#pragma GCC unroll 16
    for (int32_t i = 0; i < KV_SQUARE_WORDS; i++)
        if (i < num_words)
            _mm512_mask_storeu_epi32(lines + i * KV_BLOCK_TOKENS, tokens, (__m512i)rows[i]);
}

#endif

/* Word i of token t to lines[i * KV_BLOCK_TOKENS + t]. */
KERNEL_INLINE void kv_store_transposed(const struct kv_square *square, int32_t num_tokens,
                                       int32_t num_words, uint32_t *lines)
{
#if VEC_LANES == KV_SQUARE_WORDS
    if (num_tokens >= KV_SQUARE_TOKENS) {
        kv_store_square(square, num_tokens, num_words, lines);
        return;
    }
#endif
    for (int32_t t = 0; t < num_tokens; t++)
        kv_store_words(square->words[t], num_words, lines + t);
}

#endif
