/* The exponentials are right to as many bits as their names and comments say. */
#include "kernel_test.h"

#include <math.h>

#include "vec_power.h"

#if defined(__AVX512DQ__)

typedef vec power_function(vec power);

static vec powers_at(float first, float step)
{
    vec powers;
    for (int i = 0; i < VEC_LANES; i++)
        powers[i] = first + (float)i * step;
    return powers;
}

/* From -125 to 125 in small steps, and at every whole power. */
static void powers_of_two_are_right(power_function *power, double error)
{
    const float step = 0x1p-9f;
    for (float first = -125; first < 125; first += VEC_LANES * step) {
        vec powers = powers_at(first, step), results = power(powers);
        for (int i = 0; i < VEC_LANES; i++)
            CHECK_RELATIVE(results[i], exp2((double)powers[i]), error);
    }
}

static void ends_are_zero_and_infinity(power_function *power)
{
    vec none = power(vec_set1(-INFINITY)), tiny = power(vec_set1(-1e4f));
    vec huge = power(vec_set1(1e4f));
    for (int i = 0; i < VEC_LANES; i++)
        CHECK(none[i] == 0 && tiny[i] == 0 && isinf(huge[i]));
}

static void check_powers_of_two(void)
{
    powers_of_two_are_right(vec_power_of_two, 0x1p-18);
    powers_of_two_are_right(vec_power_of_two_rough, 0x1p-13);
    ends_are_zero_and_infinity(vec_power_of_two);
    ends_are_zero_and_infinity(vec_power_of_two_rough);
}

#else /* vec_power_below alone is there */

static void check_powers_of_two(void)
{
}

#endif

static void powers_below_a_greatest_are_right(void)
{
    const float greatest = 3;
    for (float power = -40; power <= 0; power += 0.25f) {
        vec result = vec_power_below(vec_set1(power / VEC_LOG2_E + greatest), greatest);
        CHECK_RELATIVE(result[0], exp2((double)power), 0x1p-17); /* the argument is rounded, too */
    }
}

int main(void)
{
    kernel_test_begin();
    check_powers_of_two();
    powers_below_a_greatest_are_right();
    puts("vec_power: ok");
    return 0;
}
