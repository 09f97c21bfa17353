/* chunk_range: the chunks of a phase that a member of the pool begins with; others may take some.
 *
 *     untaken chunks    first [ . . . . . . . . . . ) end
 *                       owner takes ->  <- others take
 *
 * The owner goes from the front to the back, so that what its chunks read is in the order of
 * memory; whoever has finished its own range takes from the back of another's. Both take many
 * chunks at first, since each exchange costs, and single ones at the end, so that all end together
 * (guided self-scheduling, Polychronopoulos and Kuck 1987).
 *
 * All is in one atomic word, with the number of the members that take part in the phase. A
 * compare-and-swap that succeeds therefore takes chunks of the phase of that moment, as one who
 * takes part, however long ago the word was read; the phase cannot end before they are done.
 */
#ifndef REALTIME_SERVE_CHUNK_RANGE_H
#define REALTIME_SERVE_CHUNK_RANGE_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define CHUNK_RANGE_BITS 24 /* of first, and of end */
#define CHUNK_RANGE_MAX (((int32_t)1 << CHUNK_RANGE_BITS) - 1)

/* The owner takes a quarter of what is left, others a half. */
#define CHUNK_RANGE_OWN_PART 4
#define CHUNK_RANGE_OTHERS_PART 2

struct chunk_range {
    _Atomic uint64_t word; /* num_members << 48 | first << 24 | end */
};

struct chunks {
    int32_t first;
    int32_t count; /* 0: there are none */
};

/* The chunks that a member begins with. */
static inline struct chunks chunk_range_share(int32_t num_chunks, int32_t member,
                                              int32_t num_members)
{
    int32_t first = (int32_t)((int64_t)num_chunks * member / num_members);
    int32_t end = (int32_t)((int64_t)num_chunks * (member + 1) / num_members);
    return (struct chunks){.first = first, .count = end - first};
}

static inline int32_t chunk_range_end(uint64_t word)
{
    return (int32_t)(word & CHUNK_RANGE_MAX);
}

static inline int32_t chunk_range_first(uint64_t word)
{
    return (int32_t)(word >> CHUNK_RANGE_BITS & CHUNK_RANGE_MAX);
}

static inline uint64_t chunk_range_word(int32_t num_members, int32_t first, int32_t end)
{
    return (uint64_t)num_members << 2 * CHUNK_RANGE_BITS | (uint64_t)first << CHUNK_RANGE_BITS |
           (uint64_t)end;
}

/* How many chunks of the range as `word` has it a member may take. */
static inline int32_t chunk_range_available(uint64_t word, int32_t member)
{
    bool takes_part = (uint64_t)member < word >> 2 * CHUNK_RANGE_BITS;
    return takes_part ? chunk_range_end(word) - chunk_range_first(word) : 0;
}

/* Take chunks for a member: from the front as the owner, from the back as another. */
static inline struct chunks chunk_range_take(struct chunk_range *range, int32_t member,
                                             bool is_owner)
{
    const int32_t part = is_owner ? CHUNK_RANGE_OWN_PART : CHUNK_RANGE_OTHERS_PART;
    uint64_t word = atomic_load(&range->word);
    int32_t available;
    while ((available = chunk_range_available(word, member)) > 0) {
        int32_t count = available > part ? available / part : 1;
        int32_t first = chunk_range_first(word), end = chunk_range_end(word);
        int32_t taken = is_owner ? first : end - count;
        uint64_t rest = is_owner ? word + ((uint64_t)count << CHUNK_RANGE_BITS)
                                 : word - (uint64_t)count;
        if (atomic_compare_exchange_weak(&range->word, &word, rest))
            return (struct chunks){.first = taken, .count = count};
    }
    return (struct chunks){0};
}

#endif
