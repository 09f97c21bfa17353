/* Chunks of a range: as shares of the members, one taker after the other, and many at once. */
#define _GNU_SOURCE 1 /* pthread_barrier_t */

#include <string.h>

#include "check.h"
#include "kernels/chunk_range.h"

#define NUM_TAKERS 3
#define NUM_ROUNDS 2000
#define NUM_CHUNKS 200
#define MAX_MEMBERS 65535 /* what the word has room for */

static struct chunk_range new_range(int32_t num_members, int32_t first, int32_t end)
{
    return (struct chunk_range){.word = chunk_range_word(num_members, first, end)};
}

/* ---- shares ---- */

static void check_shares(int32_t num_chunks, int32_t num_members)
{
    int32_t next = 0;
    for (int32_t member = 0; member < num_members; member++) {
        struct chunks share = chunk_range_share(num_chunks, member, num_members);
        CHECK(share.first == next);
        CHECK(share.count == num_chunks / num_members ||
              share.count == (num_chunks + num_members - 1) / num_members);
        next += share.count;
    }
    CHECK(next == num_chunks);
}

static void test_shares_are_all_chunks_in_order_and_alike(void)
{
    for (int32_t num_members = 1; num_members <= 70; num_members++) {
        for (int32_t num_chunks = 0; num_chunks <= 300; num_chunks++)
            check_shares(num_chunks, num_members);
        check_shares(CHUNK_RANGE_MAX - 1, num_members);
        check_shares(CHUNK_RANGE_MAX, num_members);
    }
    check_shares(CHUNK_RANGE_MAX, MAX_MEMBERS);
}

/* ---- one taker after the other ---- */

static int32_t expected_count(int32_t num_left, bool is_owner)
{
    int32_t count = num_left / (is_owner ? 4 : 2);
    return count > 0 ? count : 1;
}

/* Bit i of the pattern, which repeats, says whether the owner is the i-th taker. */
static void check_takes(int32_t first, int32_t end, unsigned pattern)
{
    struct chunk_range range = new_range(2, first, end);
    for (int i = 0; first < end; i++) {
        bool is_owner = pattern >> i % 6 & 1;
        int32_t count = expected_count(end - first, is_owner);
        struct chunks taken = chunk_range_take(&range, is_owner ? 0 : 1, is_owner);
        CHECK(taken.count == count);
        CHECK(taken.first == (is_owner ? first : end - count));
        first += is_owner ? count : 0;
        end -= is_owner ? 0 : count;
    }
    CHECK(chunk_range_take(&range, 0, true).count == 0);
    CHECK(chunk_range_take(&range, 1, false).count == 0);
}

static void test_owner_takes_a_quarter_in_front_and_others_a_half_behind(void)
{
    for (unsigned pattern = 0; pattern < 64; pattern++) {
        for (int32_t count = 0; count <= 130; count++) {
            check_takes(0, count, pattern);
            check_takes(77, 77 + count, pattern);
            check_takes(CHUNK_RANGE_MAX - count, CHUNK_RANGE_MAX, pattern);
        }
        check_takes(0, CHUNK_RANGE_MAX, pattern);
    }
}

static void check_takes_nothing(struct chunk_range *range, int32_t member)
{
    uint64_t before = range->word;
    CHECK(chunk_range_available(before, member) == 0);
    CHECK(chunk_range_take(range, member, true).count == 0);
    CHECK(chunk_range_take(range, member, false).count == 0);
    CHECK(range->word == before);
}

static void test_who_does_not_take_part_gets_nothing(void)
{
    static const int32_t counts[] = {1, 2, 3, 64, MAX_MEMBERS};
    struct chunk_range unused = {0};
    check_takes_nothing(&unused, 0);
    for (size_t i = 0; i < sizeof counts / sizeof *counts; i++) {
        struct chunk_range range = new_range(counts[i], 0, CHUNK_RANGE_MAX);
        check_takes_nothing(&range, counts[i]);
        check_takes_nothing(&range, counts[i] + 1);
        CHECK(chunk_range_available(range.word, counts[i] - 1) == CHUNK_RANGE_MAX);
        CHECK(chunk_range_take(&range, counts[i] - 1, false).count == CHUNK_RANGE_MAX / 2);
    }
}

/* ---- many takers at once ---- */

struct round {
    struct chunk_range range;
    pthread_barrier_t start;
    int num_takes[NUM_CHUNKS]; /* plain, so that a sanitizer sees who takes what another has */
};

struct taker {
    struct round *round;
    int32_t member;
};

static void *take_all(void *argument)
{
    struct taker *self = argument;
    struct chunks taken;
    pthread_barrier_wait(&self->round->start);
    while ((taken = chunk_range_take(&self->round->range, self->member, self->member == 0)).count)
        for (int32_t i = 0; i < taken.count; i++)
            self->round->num_takes[taken.first + i]++;
    return NULL;
}

static void check_round(struct round *round)
{
    pthread_t threads[NUM_TAKERS];
    struct taker takers[NUM_TAKERS];
    memset(round->num_takes, 0, sizeof round->num_takes);
    round->range = new_range(NUM_TAKERS, 0, NUM_CHUNKS);
    for (int32_t i = 0; i < NUM_TAKERS; i++) {
        takers[i] = (struct taker){.round = round, .member = i};
        threads[i] = start_thread(take_all, &takers[i]);
    }
    for (int32_t i = 0; i < NUM_TAKERS; i++)
        join_thread(threads[i]);
    for (int32_t chunk = 0; chunk < NUM_CHUNKS; chunk++)
        CHECK(round->num_takes[chunk] == 1);
}

static void test_each_chunk_is_taken_once_by_many_at_once(void)
{
    static struct round round;
    CHECK(pthread_barrier_init(&round.start, NULL, NUM_TAKERS) == 0);
    for (int i = 0; i < NUM_ROUNDS; i++)
        check_round(&round);
    pthread_barrier_destroy(&round.start);
}

int main(void)
{
    test_shares_are_all_chunks_in_order_and_alike();
    test_owner_takes_a_quarter_in_front_and_others_a_half_behind();
    test_who_does_not_take_part_gets_nothing();
    test_each_chunk_is_taken_once_by_many_at_once();
    puts("chunk_range: ok");
    return 0;
}
