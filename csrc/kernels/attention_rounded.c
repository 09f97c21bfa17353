/* attention_rounded: queries and weights as bf16, for VDPBF16PS and for AMX.
 *
 * The total of the weights is that of the rounded ones. So the output is a true average of values,
 * and where these have something in common, rounding does not change it (its error is 2 to 35 %
 * less than with the total before rounding, in normal random scores).
 *
 * Rounding moves a weight by up to 2^-9; exponentials that are right to 2^-13 add little to that,
 * and attention to a long prompt spends a third of its time on them.
 */
#include "attention.h"
#include "vec_bf16.h"
#include "vec_power.h"

#if defined(__AVX512BF16__)

void KERNEL(attention_store_rounded)(const struct attention *attention, int32_t query,
                                     const float *values, float scale)
{
    bf16 *stored = (bf16 *)attention->queries + query * attention->head_dim;
    for (int32_t d = 0; d < attention->head_dim; d += VEC_LANES)
        vec_store_bf16(stored + d, vec_load(values + d) * scale);
}

float KERNEL(attention_exponentiate_rounded)(const struct attention *attention, int32_t query,
                                             int32_t num_tokens, float greatest)
{
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    const float *scores = attention->scratch->scores[query];
    bf16 *weights = attention->scratch->weights[query];
    __m512 total = _mm512_setzero_ps();
    for (int32_t t = 0; t < num_tokens; t += 2 * VEC_LANES) {
        vec first = vec_power_below_rough(vec_load(scores + t), greatest);
        vec second = vec_power_below_rough(vec_load(scores + t + VEC_LANES), greatest);
        __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)second, (__m512)first);
        memcpy(weights + t, &rounded, sizeof rounded);
        total = _mm512_dpbf16_ps(total, rounded, ones);
    }
    return vec_sum((vec)total);
}

#endif
