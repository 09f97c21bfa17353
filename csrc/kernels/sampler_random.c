/* sampler_random: what of the sampler is the same for every CPU level. */
#include "sampler.h"
#include "sampler_scratch.h"

/* The output of SplitMix64 number `index` from `state` on, without those before it. */
static uint64_t splitmix64(uint64_t state, uint64_t index)
{
    uint64_t mixed = state + (index + 1) * UINT64_C(0x9e3779b97f4a7c15);
    mixed = (mixed ^ (mixed >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    mixed = (mixed ^ (mixed >> 27)) * UINT64_C(0x94d049bb133111eb);
    return mixed ^ (mixed >> 31);
}

/* The seed is mixed first, so that seeds that differ by little give unrelated streams. */
double sampler_uniform(uint64_t seed, uint64_t output_index)
{
    return (double)(splitmix64(splitmix64(seed, 0), output_index) >> 11) * 0x1p-53;
}

size_t sampler_scratch_bytes(int32_t vocab_size)
{
    return sampler_layout(vocab_size).num_bytes;
}
