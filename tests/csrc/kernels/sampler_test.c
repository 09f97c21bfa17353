/* What the sampler draws, for every kind of distribution and filter. */
#include "sampler_checks.h"

static void every_shape_and_filter_draws_as_the_reference(void)
{
    static const int32_t sizes[] = {10, 700, 2100};
    for (int shape = 0; shape < NUM_SHAPES; shape++)
        for (int i = 0; i < 3; i++) {
            float *logits = alloc_shape((enum shape)shape, sizes[i]);
            for (int j = 0; j < NUM_FILTERS; j++)
                check_draws(logits, sizes[i], FILTERS[j], 3);
            test_free(logits);
        }
}

static void every_size_draws_as_the_reference(void)
{
    static const int32_t sizes[] = {1,   2,   3,   4,   5,    7,    8,    9,    15,   16,  17,
                                    31,  32,  33,  63,  64,   65,   100,  127,  129,  255, 257,
                                    511, 512, 513, 515, 1023, 1024, 1025, 2047, 2049, 2560};
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        float *logits = alloc_shape(COARSE, sizes[i]);
        for (int j = 0; j < NUM_FILTERS; j++)
            check_draws(logits, sizes[i], FILTERS[j], 2);
        test_free(logits);
    }
}

static void a_large_vocabulary_draws_as_the_reference(void)
{
    static const struct sampling filters[] = {
        {.temperature = 1, .top_p = 0.95f},
        {.temperature = 1, .top_p = 0.3f},
        {.temperature = 1, .top_p = 1, .top_k = 20000},
        {.temperature = 1, .top_p = 0.6f, .top_k = 9000},
    };
    static const enum shape shapes[] = {SMOOTH, NEARLY_FLAT, FLAT, TWO_VALUES, MISLEADING};
    for (int i = 0; i < 5; i++) {
        float *logits = alloc_shape(shapes[i], LARGE_VOCAB);
        for (int j = 0; j < 4; j++)
            check_draws(logits, LARGE_VOCAB, filters[j], 2);
        test_free(logits);
    }
}

static void any_logits_and_filters_draw_as_the_reference(void)
{
    for (int round = 0; round < 300; round++) {
        int32_t vocab_size = 1 + test_below(1200);
        float *logits = alloc_shape((enum shape)test_below(NUM_SHAPES), vocab_size);
        for (int32_t i = test_below(9); i < vocab_size; i += 1 + test_below(50))
            logits[i] = -INFINITY;
        logits[test_below(vocab_size)] = test_uniform(-2, 2);
        struct sampling sampling = {
            .temperature = test_uniform(0.05f, 2),
            .top_k = test_below(2) * test_below(vocab_size + 9),
            .top_p = test_below(2) ? 1 : test_uniform(1e-3f, 1),
            .min_p = test_below(2) ? 0 : test_uniform(0, 1) * test_uniform(0, 1),
        };
        check_draws(logits, vocab_size, sampling, 3);
        test_free(logits);
    }
}

static void few_cases_were_uncertain(void)
{
    CHECK(num_cases > 1000);
    CHECK(num_uncertain * 20 < num_cases);
}

/* The chi-squared statistic has a mean of the degrees of freedom, at most 39, and exceeds 90 once
 * in a million times; the seeds are fixed, so that this holds or fails for good. */
static void tokens_are_drawn_as_often_as_they_weigh(void)
{
    enum { VOCAB = 40, NUM_DRAWS = 4000 };
    float *logits = alloc_shape(COARSE, VOCAB);
    void *scratch = test_alloc(sampler_scratch_bytes(VOCAB));
    for (int i = 0; i < NUM_FILTERS; i++) {
        int counts[VOCAB] = {0};
        struct sampling sampling = FILTERS[i];
        for (int draw = 0; draw < NUM_DRAWS; draw++) {
            float copy[VOCAB];
            memcpy(copy, logits, sizeof copy);
            sampling.output_index = (uint64_t)draw;
            counts[KERNEL(sample)(copy, VOCAB, &sampling, scratch).token_id]++;
        }
        refer_to(logits, VOCAB, &sampling);
        double statistic = 0;
        for (int j = 0; j < VOCAB; j++) {
            double expected = NUM_DRAWS * reference.weights[j] / reference.mass;
            CHECK(expected > 0 || counts[j] == 0);
            statistic += expected > 0 ? pow(counts[j] - expected, 2) / expected : 0;
        }
        CHECK(statistic < 90);
    }
    test_free(logits), test_free(scratch);
}

static void of_tokens_that_tie_at_the_cut_the_first_stay(void)
{
    float *logits = alloc_shape(FLAT, 20000);
    for (uint64_t seed = 0; seed < 12; seed++)
        for (int32_t k = 3; k < 20000; k = k * 7 / 2) {
            struct sampling sampling = {.temperature = 1, .top_p = 1, .top_k = k, .seed = seed};
            int32_t expected = (int32_t)(sampler_uniform(seed, 0) * k);
            CHECK(sample_id(logits, 20000, sampling) == expected);
        }
    test_free(logits);
}

/* A row whose filters have left these weights; `count` is a multiple of QUAD. */
static int32_t draw_from(float *weights, int32_t count, double uniform)
{
    int32_t candidates[256];
    double prefixes[4];
    for (int32_t i = 0; i < count / VEC_LANES; i++)
        candidates[i] = i + 5;
    struct sampler_row row = {.num_weights = count,
                              .weights = weights,
                              .num_candidates = count / VEC_LANES,
                              .candidates = candidates,
                              .prefixes = prefixes};
    return KERNEL(sampler_draw_candidate)(&row, uniform) - 5 * VEC_LANES;
}

#define ALMOST_ONE (1 - 0x1p-53)

static void the_cdf_is_inverted_exactly(void)
{
    enum { COUNT = 3 * SAMPLER_GROUP / 2 };
    static const double uniforms[] = {0, 0.25, 0.5, 0.75, ALMOST_ONE};
    float weights[COUNT] = {[2] = 1, [30] = 0.5f, [SAMPLER_GROUP - 1] = 0.5f,
                            [SAMPLER_GROUP] = 1, [SAMPLER_GROUP + 200] = 1};
    static const int32_t expected[] = {2, 30, SAMPLER_GROUP, SAMPLER_GROUP + 200,
                                       SAMPLER_GROUP + 200};
    for (int i = 0; i < 5; i++)
        CHECK(draw_from(weights, COUNT, uniforms[i]) == expected[i]);
}

/* Weights of very different size, so that each order of summing gives another sum. */
static void rounding_leads_to_no_token_without_weight(void)
{
    enum { COUNT = SAMPLER_GROUP };
    for (int round = 0; round < 500; round++) {
        float weights[COUNT] = {0};
        for (int i = 0; i < COUNT - 100; i++)
            weights[i] = i % 3 == 0 ? 0 : exponential(test_uniform(-40, 0));
        CHECK(weights[draw_from(weights, COUNT, ALMOST_ONE)] > 0);
    }
}

static void a_draw_repeats_wherever_the_row_lies(void)
{
    enum { VOCAB = 1003 };
    float *logits = alloc_shape(SMOOTH, VOCAB);
    float *moved = test_alloc((VOCAB + 64) * sizeof(float));
    void *scratch = test_alloc(sampler_scratch_bytes(VOCAB));
    for (int i = 0; i < NUM_FILTERS; i++) {
        struct sampling sampling = FILTERS[i];
        sampling.seed = (uint64_t)i;
        struct sampled expected = sample(logits, VOCAB, &sampling);
        for (int32_t offset = 0; offset < 64; offset += 7) {
            test_fill(moved, VOCAB + 64, -1e9f, 1e9f);
            memcpy(moved + offset, logits, VOCAB * sizeof(float));
            struct sampled sampled = KERNEL(sample)(moved + offset, VOCAB, &sampling, scratch);
            CHECK(memcmp(&sampled, &expected, sizeof sampled) == 0);
        }
    }
    test_free(logits), test_free(moved), test_free(scratch);
}

int main(void)
{
    kernel_test_begin();
    every_shape_and_filter_draws_as_the_reference();
    every_size_draws_as_the_reference();
    a_large_vocabulary_draws_as_the_reference();
    any_logits_and_filters_draw_as_the_reference();
    few_cases_were_uncertain();
    tokens_are_drawn_as_often_as_they_weigh();
    of_tokens_that_tie_at_the_cut_the_first_stay();
    the_cdf_is_inverted_exactly();
    rounding_leads_to_no_token_without_weight();
    a_draw_repeats_wherever_the_row_lies();
    puts("sampler: ok");
    return 0;
}
