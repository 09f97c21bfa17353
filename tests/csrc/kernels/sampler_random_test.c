/* The random numbers of tokens. */
#include "kernel_test.h"

#include "sampler.h"

/* From the Python sampler's uniform(). */
static void random_numbers_are_those_of_the_other_sampler(void)
{
    CHECK(sampler_uniform(0, 0) == 0x1.4e0dba5e9a32fp-1);
    CHECK(sampler_uniform(1, 0) == 0x1.7906ac21d0e58p-2);
    CHECK(sampler_uniform(0, 1) == 0x1.6705460be8829p-1);
    CHECK(sampler_uniform(UINT64_MAX, 0) == 0x1.77082a9eca89cp-2);
    CHECK(sampler_uniform(1234567, 1000000) == 0x1.00a0fd0afb242p-1);
    CHECK(sampler_uniform((uint64_t)1 << 63, (uint64_t)1 << 40) == 0x1.8a582711323fdp-1);
}

static void random_numbers_are_even(void)
{
    int counts[64] = {0};
    for (uint64_t seed = 0; seed < 80; seed++)
        for (uint64_t index = 0; index < 80; index++) {
            double uniform = sampler_uniform(seed, index);
            CHECK(uniform >= 0 && uniform < 1);
            counts[(int)(uniform * 64)]++;
        }
    for (int i = 0; i < 64; i++)
        CHECK(counts[i] > 50 && counts[i] < 150); /* 100 are expected; 5 standard deviations */
}

int main(void)
{
    kernel_test_begin();
    random_numbers_are_those_of_the_other_sampler();
    random_numbers_are_even();
    puts("sampler_random: ok");
    return 0;
}
