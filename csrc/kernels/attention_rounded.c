/* attention_rounded: queries and weights as bf16, for VDPBF16PS and for AMX.
 *
 * Weights that are rounded to 8 bits do not need an exponential of 24. e^x is 2^(x log2 e): the
 * whole part of that power goes into the exponent, its fraction into a polynomial that is right to
 * 18 bits.
 *
 * The total of the weights is that of the rounded ones. So the output is a true average of values,
 * and where these have something in common, rounding does not change it (its error is 2 to 35 %
 * less than with the total before rounding, in normal random scores).
 */
#include "attention.h"
#include "vec_bf16.h"

#if defined(__AVX512BF16__)

void KERNEL(attention_store_rounded)(const struct attention *attention, int32_t query,
                                     const float *values, float scale)
{
    bf16 *stored = (bf16 *)attention->queries + query * attention->head_dim;
    for (int32_t d = 0; d < attention->head_dim; d += VEC_LANES)
        vec_store_bf16(stored + d, vec_load(values + d) * scale);
}

/* 2 to the power of each lane; 0 for minus infinity. Polynomial: least relative error on [0, 1]. */
KERNEL_INLINE vec power_of_two(vec x)
{
    const int32_t toward_minus_infinity = 1;
    vec fraction = (vec)_mm512_reduce_ps((__m512)x, toward_minus_infinity);
    vec p = vec_set1(1.342668e-2f);
    p = vec_fma(p, fraction, vec_set1(5.224247e-2f));
    p = vec_fma(p, fraction, vec_set1(2.4128021e-1f));
    p = vec_fma(p, fraction, vec_set1(6.9304484e-1f));
    p = vec_fma(p, fraction, vec_set1(1.0f));
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)x); /* takes the whole part itself */
}

float KERNEL(attention_exponentiate_rounded)(const struct attention *attention, int32_t query,
                                             int32_t num_tokens, float greatest)
{
    const float log2_e = 1.44269504f;
    const __m512bh ones = (__m512bh)_mm512_set1_epi32(0x3f803f80);
    const float *scores = attention->scratch->scores[query];
    bf16 *weights = attention->scratch->weights[query];
    vec offset = vec_set1(-greatest * log2_e);
    __m512 total = _mm512_setzero_ps();
    for (int32_t t = 0; t < num_tokens; t += 2 * VEC_LANES) {
        vec first = vec_fma(vec_load(scores + t), vec_set1(log2_e), offset);
        vec second = vec_fma(vec_load(scores + t + VEC_LANES), vec_set1(log2_e), offset);
        __m512bh rounded = _mm512_cvtne2ps_pbh((__m512)power_of_two(second),
                                               (__m512)power_of_two(first));
        memcpy(weights + t, &rounded, sizeof rounded);
        total = _mm512_dpbf16_ps(total, rounded, ones);
    }
    return vec_sum((vec)total);
}

#endif
