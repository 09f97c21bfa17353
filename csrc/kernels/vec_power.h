/* vec_power: exponentials that are right to 18 or to 13 bits, for what is rounded to fewer.
 *
 * e^x is 2^(x log2 e): the whole part of that power goes into the exponent, its fraction into a
 * polynomial of less degree than vec_exp's.
 */
#ifndef REALTIME_SERVE_VEC_POWER_H
#define REALTIME_SERVE_VEC_POWER_H

#include "vec.h"

#define VEC_LOG2_E 1.44269504f

#if defined(__AVX512DQ__)

/* Of each lane; 0 to less than 1. */
KERNEL_INLINE vec vec_power_fraction(vec x)
{
    const int32_t toward_minus_infinity = 1;
    return (vec)_mm512_reduce_ps((__m512)x, toward_minus_infinity);
}

/* 2 to the power of each lane; 0 for minus infinity. Polynomial: least relative error on [0, 1]. */
KERNEL_INLINE vec vec_power_of_two(vec x)
{
    vec fraction = vec_power_fraction(x);
    vec p = vec_set1(1.342668e-2f);
    p = vec_fma(p, fraction, vec_set1(5.224247e-2f));
    p = vec_fma(p, fraction, vec_set1(2.4128021e-1f));
    p = vec_fma(p, fraction, vec_set1(6.9304484e-1f));
    p = vec_fma(p, fraction, vec_set1(1.0f));
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)x); /* takes the whole part itself */
}

/* Likewise, to 13 bits: a polynomial of one degree less. */
KERNEL_INLINE vec vec_power_of_two_rough(vec x)
{
    vec fraction = vec_power_fraction(x);
    vec p = vec_set1(7.8024521e-2f);
    p = vec_fma(p, fraction, vec_set1(2.2606716e-1f));
    p = vec_fma(p, fraction, vec_set1(6.9583356e-1f));
    p = vec_fma(p, fraction, vec_set1(9.999252e-1f));
    return (vec)_mm512_scalef_ps((__m512)p, (__m512)x);
}

/* e to the power of x - greatest, where no x is greater, to 13 bits. */
KERNEL_INLINE vec vec_power_below_rough(vec x, float greatest)
{
    return vec_power_of_two_rough(
        vec_fma(x, vec_set1(VEC_LOG2_E), vec_set1(-greatest * VEC_LOG2_E)));
}

#endif

/* e to the power of x - greatest, where no x is greater, to 18 bits or more. */
KERNEL_INLINE vec vec_power_below(vec x, float greatest)
{
#if defined(__AVX512DQ__)
    return vec_power_of_two(vec_fma(x, vec_set1(VEC_LOG2_E), vec_set1(-greatest * VEC_LOG2_E)));
#else
    return vec_exp(x - greatest);
#endif
}

#endif
