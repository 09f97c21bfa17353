/* attention_vec: the products of attention by vectors, at any level.
 *
 * Both products multiply the left operand, a row of numbers for each query, with the right one, a
 * block of keys or values, whose rows (dimensions of keys, tokens of values) go in pairs, the way
 * bf16 stores them:
 *
 *   PAIR_F32    float32 meets float32
 *   PAIR_WIDE   bf16, widened as it is loaded, meets float32, which has nothing to gain from
 *               being rounded
 *   PAIR_BF16   bf16 meets bf16 in VDPBF16PS; one vector holds a pair
 *   PAIR_CODES  bytes meet whole numbers of 16 bits. Rows go in fours; the even and the odd bytes
 *               of each lane are widened to two vectors of two rows each, so that the left
 *               operand's fours have the order 0 2 1 3. Sums are whole numbers.
 *
 * A query's sums run over the pairs in order, whichever queries stand beside it.
 */
#include <stdbool.h>

#include "attention.h"
#include "vec_bf16.h"
#include "vec_dot.h"

enum pairing { PAIR_F32, PAIR_WIDE, PAIR_BF16, PAIR_CODES };

/* Rows of the right operand that a pair of vectors holds; bytes of a number of the left one. */
#define PAIR_ROWS(pairing) ((pairing) == PAIR_CODES ? 4 : 2)
#define LEFT_BYTES(pairing) ((pairing) == PAIR_BF16 || (pairing) == PAIR_CODES ? 2 : 4)

/* Of a block of keys or values, what comes before them. */
#define SCALES_BYTES(pairing) ((pairing) == PAIR_CODES ? KV_SCALES_BYTES : 0)

struct operands {
    const char *left;
    size_t left_stride; /* bytes between queries */
    const char *right;
    const char *after; /* a block to prefetch meanwhile */
    int32_t num_pairs; /* of vectors, that hold all rows of `right` */
    int32_t num_columns;
    float *out; /* [query][column]; whole numbers of PAIR_CODES */
    size_t out_stride;
};

/* ---- pairs ---- */

struct pair {
    vec first;
    vec second;
};

KERNEL_INLINE struct pair load_pair(enum pairing pairing, const struct operands *operands,
                                    int32_t pair, int32_t column)
{
    int32_t width = operands->num_columns;
    struct pair rows = {{0}, {0}};
    if (pairing == PAIR_F32) {
        const float *first = (const float *)operands->right + 2 * pair * width + column;
        rows.first = vec_load(first);
        rows.second = vec_load(first + width);
    } else if (pairing == PAIR_CODES) {
        vec_i32 fours = vec_load_i32(operands->right + 4 * (pair * width + column));
        rows.first = (vec)vec_even_bytes(fours);
        rows.second = (vec)vec_odd_bytes(fours);
    } else {
        const bf16 *values = (const bf16 *)operands->right + 2 * (pair * width + column);
        if (pairing == PAIR_WIDE)
            vec_load_bf16_pairs(values, &rows.first, &rows.second);
        else
            memcpy(&rows.first, values, sizeof rows.first);
    }
    return rows;
}

KERNEL_INLINE vec add_codes(vec sum, vec codes, const char *left)
{
    vec_i16 two = (vec_i16)vec_repeat(left);
#if defined(__AVX512VNNI__)
    return (vec)_mm512_dpwssd_epi32((__m512i)sum, (__m512i)codes, (__m512i)two);
#else
    return (vec)((vec_i32)sum + vec_dot2((vec_i16)codes, two));
#endif
}

/* sum + left[0] * rows.first + left[1] * rows.second */
KERNEL_INLINE vec add_products(enum pairing pairing, vec sum, const struct pair *rows,
                               const char *left)
{
#if defined(__AVX512BF16__)
    if (pairing == PAIR_BF16) {
        int32_t both;
        memcpy(&both, left, sizeof both);
        return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)rows->first,
                                     (__m512bh)_mm512_set1_epi32(both));
    }
#endif
    if (pairing == PAIR_CODES) {
        sum = add_codes(sum, rows->first, left);
        return add_codes(sum, rows->second, left + 2 * sizeof(int16_t));
    }
    const float *numbers = (const float *)left;
    sum = vec_fma(rows->first, vec_set1(numbers[0]), sum);
    return vec_fma(rows->second, vec_set1(numbers[1]), sum);
}

/* ---- blocks ---- */

/* Queries that share a load of the right operand: their sums and a pair of vectors fit the 16
 * registers that x86 has below AVX-512, and hide the latency of each other's additions. */
#define STRIP_QUERIES 8

/* A vector of columns of `out`, for num_queries queries from `first` on. */
KERNEL_INLINE void multiply_columns(enum pairing pairing, const struct operands *operands,
                                    int32_t column, int32_t first, int32_t num_queries)
{
    const int32_t left_bytes = PAIR_ROWS(pairing) * LEFT_BYTES(pairing);
    const int32_t right_bytes = VEC_LANES * (pairing == PAIR_F32 ? 8 : 4);
    const char *left = operands->left + (size_t)first * operands->left_stride;
    const char *after = operands->after + column / VEC_LANES * operands->num_pairs * right_bytes;
    float *out = operands->out + (size_t)first * operands->out_stride + column;
    vec sums[STRIP_QUERIES];
    for (int32_t i = 0; i < num_queries; i++)
        sums[i] = vec_load(out + (size_t)i * operands->out_stride);
    for (int32_t pair = 0; pair < operands->num_pairs; pair++) {
        struct pair rows = load_pair(pairing, operands, pair, column);
        attention_prefetch(after + pair * right_bytes, right_bytes);
        for (int32_t i = 0; i < num_queries; i++)
            sums[i] = add_products(pairing, sums[i], &rows,
                                   left + (size_t)i * operands->left_stride + pair * left_bytes);
    }
    for (int32_t i = 0; i < num_queries; i++)
        vec_store(out + (size_t)i * operands->out_stride, sums[i]);
}

KERNEL_INLINE void multiply_strip(enum pairing pairing, const struct operands *operands,
                                  int32_t first, int32_t num_queries)
{
    for (int32_t column = 0; column < operands->num_columns; column += VEC_LANES)
        multiply_columns(pairing, operands, column, first, num_queries);
}

/* Strips of 8, 4, 3, 2 and 1 have code of their own each, so that their sums are registers. */
KERNEL_INLINE void multiply_block(enum pairing pairing, const struct operands *operands,
                                  int32_t num_queries)
{
    int32_t first = 0;
    for (; num_queries - first >= STRIP_QUERIES; first += STRIP_QUERIES)
        multiply_strip(pairing, operands, first, STRIP_QUERIES);
    if (num_queries - first >= STRIP_QUERIES / 2) {
        multiply_strip(pairing, operands, first, STRIP_QUERIES / 2);
        first += STRIP_QUERIES / 2;
    }
    if (num_queries - first == 3)
        multiply_strip(pairing, operands, first, 3);
    else if (num_queries - first == 2)
        multiply_strip(pairing, operands, first, 2);
    else if (num_queries - first == 1)
        multiply_strip(pairing, operands, first, 1);
}

/* ---- scales ---- */

/* Make scores of the sums of a block's keys, and prefetch what its values' weights will want. */
KERNEL_INLINE void scale_scores(const struct attention *attention, int32_t block)
{
    struct attention_scratch *scratch = attention->scratch;
    const float *key_scales = (const float *)attention_keys(attention, block);
    attention_prefetch(attention_values(attention, block), KV_SCALES_BYTES);
    attention_prefetch(attention_after_keys(attention, block), KV_SCALES_BYTES);
    for (int32_t i = 0; i < attention->num_queries; i++) {
        float *scores = scratch->scores[i] + block * KV_BLOCK_TOKENS;
        for (int32_t t = 0; t < KV_BLOCK_TOKENS; t += VEC_LANES) {
            vec sums = __builtin_convertvector((vec_i32)vec_load(scores + t), vec);
            vec_store(scores + t, sums * (vec_load(key_scales + t) * scratch->query_scales[i]));
        }
    }
}

/* Add the sums of the part's values to the output. */
KERNEL_INLINE void add_scaled_sums(const struct attention *attention, const float *all_sums)
{
    for (int32_t i = 0; i < attention->num_queries; i++) {
        float *output = attention->output + i * attention->head_dim;
        vec scale = vec_set1(attention->scratch->weight_scales[i]);
        for (int32_t d = 0; d < attention->head_dim; d += VEC_LANES) {
            vec_i32 sums = (vec_i32)vec_load(all_sums + i * attention->head_dim + d);
            vec_store(output + d, vec_fma(__builtin_convertvector(sums, vec), scale,
                                          vec_load(output + d)));
        }
    }
}

/* ---- keys and values ---- */

KERNEL_INLINE void multiply_keys(enum pairing pairing, const struct attention *attention)
{
    struct operands operands = {
        .left = attention->queries,
        .left_stride = (size_t)attention->head_dim * LEFT_BYTES(pairing),
        .num_pairs = attention->head_dim / PAIR_ROWS(pairing),
        .num_columns = KV_BLOCK_TOKENS,
        .out_stride = ATTENTION_PART_TOKENS,
    };
    memset(attention->scratch->scores, 0,
           (size_t)attention->num_queries * sizeof attention->scratch->scores[0]);
    for (int32_t block = 0; block < attention->num_blocks; block++) {
        operands.right = attention_keys(attention, block) + SCALES_BYTES(pairing);
        operands.after = attention_after_keys(attention, block) + SCALES_BYTES(pairing);
        operands.out = attention->scratch->scores[0] + block * KV_BLOCK_TOKENS;
        multiply_block(pairing, &operands, attention->num_queries);
        if (pairing == PAIR_CODES)
            scale_scores(attention, block);
    }
}

KERNEL_INLINE const char *weights_of(enum pairing pairing, const struct attention_scratch *scratch)
{
    if (pairing == PAIR_CODES)
        return (const char *)scratch->weight_codes;
    return pairing == PAIR_BF16 ? (const char *)scratch->weights : (const char *)scratch->scores;
}

KERNEL_INLINE void multiply_values(enum pairing pairing, const struct attention *attention)
{
    const char *weights = weights_of(pairing, attention->scratch);
    size_t num_sums = (size_t)attention->num_queries * (size_t)attention->head_dim;
    struct operands operands = {
        .left_stride = ATTENTION_PART_TOKENS * LEFT_BYTES(pairing),
        .num_pairs = KV_BLOCK_TOKENS / PAIR_ROWS(pairing),
        .num_columns = attention->head_dim,
        .out = pairing == PAIR_CODES ? attention->workspace : attention->output,
        .out_stride = (size_t)attention->head_dim,
    };
    if (pairing == PAIR_CODES)
        memset(operands.out, 0, num_sums * sizeof *operands.out);
    for (int32_t block = 0; block < attention->num_blocks; block++) {
        operands.left = weights + (size_t)block * KV_BLOCK_TOKENS * LEFT_BYTES(pairing);
        operands.right = attention_values(attention, block) + SCALES_BYTES(pairing);
        operands.after = attention_after_values(attention, block) + SCALES_BYTES(pairing);
        multiply_block(pairing, &operands, attention->num_queries);
    }
    if (pairing == PAIR_CODES)
        add_scaled_sums(attention, operands.out);
}

/* ---- the methods ---- */

static void store_query(const struct attention *attention, int32_t query, const float *values,
                        float scale)
{
    float *stored = (float *)attention->queries + query * attention->head_dim;
    for (int32_t d = 0; d < attention->head_dim; d += VEC_LANES)
        vec_store(stored + d, vec_load(values + d) * scale);
}

static float exponentiate(const struct attention *attention, int32_t query, int32_t num_tokens,
                          float greatest)
{
    float *scores = attention->scratch->scores[query];
    vec total = vec_set1(0.0f);
    for (int32_t t = 0; t < num_tokens; t += VEC_LANES) {
        vec weights = vec_exp(vec_load(scores + t) - greatest);
        vec_store(scores + t, weights);
        total += weights;
    }
    return vec_sum(total);
}

static void multiply_keys_f32(const struct attention *attention)
{
    multiply_keys(PAIR_F32, attention);
}

static void multiply_values_f32(const struct attention *attention)
{
    multiply_values(PAIR_F32, attention);
}

const struct attention_method KERNEL(attention_f32) = {
    .store_query = store_query,
    .multiply_keys = multiply_keys_f32,
    .exponentiate = exponentiate,
    .multiply_values = multiply_values_f32,
};

#if !defined(__AMX_BF16__) /* attention_amx.c has that level's */

#if defined(__AVX512BF16__)
#define PAIR_OF_LEVEL PAIR_BF16
#else
#define PAIR_OF_LEVEL PAIR_WIDE
#endif

static void multiply_keys_bf16(const struct attention *attention)
{
    multiply_keys(PAIR_OF_LEVEL, attention);
}

static void multiply_values_bf16(const struct attention *attention)
{
    multiply_values(PAIR_OF_LEVEL, attention);
}

const struct attention_method KERNEL(attention_bf16) = {
#if defined(__AVX512BF16__)
    .store_query = KERNEL(attention_store_rounded),
    .exponentiate = KERNEL(attention_exponentiate_rounded),
#else
    .store_query = store_query,
    .exponentiate = exponentiate,
#endif
    .multiply_keys = multiply_keys_bf16,
    .multiply_values = multiply_values_bf16,
};

#endif

#if !defined(__AMX_INT8__) /* attention_amx_int8.c has that level's */

static void multiply_keys_int8(const struct attention *attention)
{
    multiply_keys(PAIR_CODES, attention);
}

static void multiply_values_int8(const struct attention *attention)
{
    multiply_values(PAIR_CODES, attention);
}

const struct attention_method KERNEL(attention_int8) = {
    .store_query = KERNEL(attention_store_quantized),
    .multiply_keys = multiply_keys_int8,
    .exponentiate = KERNEL(attention_exponentiate_quantized),
    .multiply_values = multiply_values_int8,
};

#endif
