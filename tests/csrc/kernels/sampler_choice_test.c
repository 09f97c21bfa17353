/* What the sampler may choose: the likeliest token, not a forbidden one, and sometimes nothing. */
#include "sampler_checks.h"

/* ---- greedy, bans, masks ---- */

static const struct sampling GREEDY = {.top_p = 1};

static void greedy_takes_the_first_of_the_likeliest(void)
{
    for (int32_t vocab_size = 1; vocab_size < 3000; vocab_size = vocab_size * 3 / 2 + 1) {
        float *logits = alloc_shape(COARSE, vocab_size);
        int32_t expected = 0;
        for (int32_t i = 1; i < vocab_size; i++)
            expected = logits[i] > logits[expected] ? i : expected;
        struct sampled sampled = sample(logits, vocab_size, &GREEDY);
        CHECK(sampled.token_id == expected);
        check_logprob(logits, vocab_size, sampled);
        test_free(logits);
    }
}

static void a_vanishing_temperature_is_greedy(void)
{
    static const float temperatures[] = {1e-4f, 1e-12f, 1e-38f, 1e-45f};
    float *logits = alloc_shape(SMOOTH, 700);
    int32_t expected = sample_id(logits, 700, GREEDY);
    for (int i = 0; i < 4; i++)
        for (uint64_t seed = 0; seed < 20; seed++) {
            struct sampling sampling = {
                .temperature = temperatures[i], .top_p = 1, .seed = seed};
            CHECK(sample_id(logits, 700, sampling) == expected);
        }
    test_free(logits);
}

static void the_greatest_finite_logits_are_no_exception(void)
{
    float logits[] = {-FLT_MAX, -INFINITY, -FLT_MAX, FLT_MAX, FLT_MAX, -INFINITY};
    const struct sampling any = {.temperature = 1, .top_p = 1};
    CHECK(sample_id(logits, 6, GREEDY) == 3);
    CHECK(sample_id(logits, 3, GREEDY) == 0);
    check_draws(logits, 6, any, 20);
    check_draws(logits, 3, any, 20);
}

static void forbidden_tokens_are_not_chosen_and_change_no_logprob(void)
{
    enum { VOCAB = 1003, NUM_WORDS = (VOCAB + 31) / 32, NUM_BANNED = 300 };
    float *logits = alloc_shape(SMOOTH, VOCAB);
    int32_t *banned = test_alloc(NUM_BANNED * sizeof(int32_t));
    uint32_t *allowed = test_alloc(NUM_WORDS * sizeof(uint32_t));
    for (int round = 0; round < 4; round++) {
        for (int i = 0; i < NUM_BANNED; i++)
            banned[i] = test_below(VOCAB);
        for (int i = 0; i < NUM_WORDS; i++)
            allowed[i] = (uint32_t)test_random() & (uint32_t)test_random();
        for (int i = 0; i < NUM_FILTERS; i++) {
            struct sampling sampling = FILTERS[i];
            sampling.banned = banned;
            sampling.num_banned = round % 2 * NUM_BANNED;
            sampling.allowed = round < 2 ? allowed : NULL;
            check_draws(logits, VOCAB, sampling, 3);
        }
    }
    test_free(logits), test_free(banned), test_free(allowed);
}

static void greedy_takes_the_likeliest_token_that_may_be_chosen(void)
{
    float logits[40] = {[7] = 5, [20] = 9, [21] = 8, [39] = 4};
    const int32_t banned[] = {20, 21};
    const uint32_t allowed[] = {0xffdfff7f, 0xff};
    struct sampling sampling = {.top_p = 1, .banned = banned, .num_banned = 2};
    CHECK(sample_id(logits, 40, sampling) == 7);
    sampling.allowed = allowed;
    CHECK(sample_id(logits, 40, sampling) == 39);
    sampling.num_banned = 0;
    CHECK(sample_id(logits, 40, sampling) == 20);
}

/* ---- failures ---- */

static void check_nothing(const float *logits, int32_t vocab_size, struct sampling sampling)
{
    for (int i = 0; i < NUM_FILTERS; i++) {
        sampling.temperature = FILTERS[i].temperature;
        sampling.top_k = FILTERS[i].top_k;
        sampling.top_p = FILTERS[i].top_p;
        sampling.min_p = FILTERS[i].min_p;
        CHECK(sample_id(logits, vocab_size, sampling) == SAMPLED_NOTHING);
    }
    sampling.temperature = 0;
    CHECK(sample_id(logits, vocab_size, sampling) == SAMPLED_NOTHING);
}

static void broken_logits_give_nothing_wherever_they_are(void)
{
    static const int32_t places[] = {0, 3, 15, 16, 500, 511, 512, 698, 699};
    static const float broken[] = {NAN, -NAN, INFINITY};
    for (int i = 0; i < 9; i++)
        for (int j = 0; j < 3; j++) {
            float *logits = alloc_shape(SMOOTH, 700);
            logits[places[i]] = broken[j];
            logits[100] = -INFINITY;
            check_nothing(logits, 700, (struct sampling){.banned = &places[i], .num_banned = 1});
            test_free(logits);
        }
}

static void no_token_to_choose_from_gives_nothing(void)
{
    enum { VOCAB = 70 };
    const uint32_t none[] = {0, 0, 0xffffffc0}; /* bits past the vocabulary mean nothing */
    const int32_t banned[] = {3, 69};
    float logits[VOCAB];
    for (int i = 0; i < VOCAB; i++)
        logits[i] = -INFINITY;
    check_nothing(logits, VOCAB, (struct sampling){0});
    check_nothing(logits, 0, (struct sampling){0});
    logits[3] = logits[69] = 1;
    check_nothing(logits, VOCAB, (struct sampling){.banned = banned, .num_banned = 2});
    check_nothing(logits, VOCAB, (struct sampling){.allowed = none});
}

int main(void)
{
    kernel_test_begin();
    greedy_takes_the_first_of_the_likeliest();
    a_vanishing_temperature_is_greedy();
    the_greatest_finite_logits_are_no_exception();
    forbidden_tokens_are_not_chosen_and_change_no_logprob();
    greedy_takes_the_likeliest_token_that_may_be_chosen();
    broken_logits_give_nothing_wherever_they_are();
    no_token_to_choose_from_gives_nothing();
    puts("sampler_choice: ok");
    return 0;
}
