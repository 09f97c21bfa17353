#define _GNU_SOURCE 1

#include "token_ring.h"

#include <assert.h>
#include <errno.h>
#include <stdalign.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>

/* Two threads that write the same line would pass it to and fro at every token. */
#define CACHE_LINE 64

/* The only memory orders that the data race detector can judge by the records. The tests
 * weaken them, one at a time, to prove that it would notice. */
#ifndef TOKEN_RING_PUSH_ORDER
#define TOKEN_RING_PUSH_ORDER memory_order_release
#endif
#ifndef TOKEN_RING_POP_ORDER
#define TOKEN_RING_POP_ORDER memory_order_release
#endif

struct token_ring {
    alignas(CACHE_LINE) _Atomic uint64_t head; /* the producer's */
    alignas(CACHE_LINE) _Atomic uint64_t tail; /* the consumer's */
    alignas(CACHE_LINE) size_t capacity;       /* this line is written a few times a stream */
    _Atomic size_t num_references;
    _Atomic int state;
    _Atomic int cancel_state;
    _Atomic uint64_t num_renewals;
    _Atomic int64_t stalled_since_ns; /* monotonic; 0 while the producer does not wait */
    _Atomic int64_t stalled_ns;       /* in stalls that are over */
    alignas(CACHE_LINE) token_record records[];
};

static_assert(sizeof(token_record) == 16, "four records fill a cache line");

static size_t round_up_to_power_of_two(size_t number)
{
    size_t power = 1;
    while (power < number)
        power *= 2;
    return power;
}

/* aligned_alloc wants a size that is a multiple of the alignment. */
static size_t round_up_to_line(size_t size)
{
    return (size + CACHE_LINE - 1) / CACHE_LINE * CACHE_LINE;
}

token_ring *token_ring_new(size_t capacity)
{
    if (capacity == 0 || capacity > TOKEN_RING_MAX_CAPACITY) {
        errno = EINVAL;
        return NULL;
    }
    capacity = round_up_to_power_of_two(capacity);
    size_t size = sizeof(token_ring) + capacity * sizeof(token_record);
    token_ring *ring = aligned_alloc(CACHE_LINE, round_up_to_line(size));
    if (ring == NULL)
        return NULL;
    ring->capacity = capacity;
    atomic_init(&ring->head, 0);
    atomic_init(&ring->tail, 0);
    atomic_init(&ring->num_references, 1);
    atomic_init(&ring->state, TOKEN_OPEN);
    atomic_init(&ring->cancel_state, TOKEN_OPEN);
    atomic_init(&ring->num_renewals, 0);
    atomic_init(&ring->stalled_since_ns, 0);
    atomic_init(&ring->stalled_ns, 0);
    return ring;
}

token_ring *token_ring_retain(token_ring *ring)
{
    atomic_fetch_add_explicit(&ring->num_references, 1, memory_order_relaxed);
    return ring;
}

void token_ring_release(token_ring *ring)
{
    if (ring == NULL)
        return;
    if (atomic_fetch_sub_explicit(&ring->num_references, 1, memory_order_acq_rel) == 1)
        free(ring);
}

static token_record *record_at(token_ring *ring, uint64_t position)
{
    return &ring->records[position & (ring->capacity - 1)];
}

/* ---- producer ---- */

size_t token_ring_free_space(const token_ring *ring)
{
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    return ring->capacity - (size_t)(head - tail);
}

uint64_t token_ring_reader_activity(const token_ring *ring)
{
    return atomic_load_explicit(&ring->tail, memory_order_relaxed) +
           atomic_load_explicit(&ring->num_renewals, memory_order_relaxed);
}

bool token_ring_push(token_ring *ring, const token_record *record)
{
    if (token_ring_free_space(ring) == 0)
        return false;
    uint64_t head = atomic_load_explicit(&ring->head, memory_order_relaxed);
    *record_at(ring, head) = *record;
    atomic_store_explicit(&ring->head, head + 1, TOKEN_RING_PUSH_ORDER);
    return true;
}

static bool is_room_again(const token_ring *ring, size_t num_free)
{
    return num_free >= (ring->capacity + 1) / 2;
}

static int64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

/* Takes the mark back and counts the time since; false if there was none. */
static bool end_stall(token_ring *ring)
{
    int64_t since_ns = atomic_exchange_explicit(&ring->stalled_since_ns, 0, memory_order_acq_rel);
    if (since_ns == 0)
        return false;
    atomic_fetch_add_explicit(&ring->stalled_ns, now_ns() - since_ns, memory_order_relaxed);
    return true;
}

/* Why no wake-up is lost: both sides read-modify-write the mark, so one of the two comes
 * first. If it is the producer's, the consumer's exchange returns the mark. If it is the
 * consumer's, the producer's exchange reads from it, hence sees the tail that was stored
 * before it, and finds the room itself. A plain load in place of either would not do: the
 * processor may let it pass the store before it. A mark that is there is exchanged for itself;
 * that fails only if the consumer has taken it, and then there is room. */
bool token_ring_mark_stalled(token_ring *ring)
{
    int64_t since_ns = atomic_load_explicit(&ring->stalled_since_ns, memory_order_relaxed);
    int64_t mark_ns = since_ns != 0 ? since_ns : now_ns();
    atomic_compare_exchange_strong_explicit(&ring->stalled_since_ns, &since_ns, mark_ns,
                                            memory_order_acq_rel, memory_order_acquire);
    if (!is_room_again(ring, token_ring_free_space(ring)))
        return true;
    end_stall(ring);
    return false;
}

/* ---- consumer ---- */

static size_t num_ready(const token_ring *ring, uint64_t tail)
{
    return (size_t)(atomic_load_explicit(&ring->head, memory_order_acquire) - tail);
}

size_t token_ring_pop(token_ring *ring, token_record *records, size_t max_records)
{
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    size_t num_records = num_ready(ring, tail);
    if (num_records > max_records)
        num_records = max_records;
    if (num_records == 0)
        return 0;
    for (size_t i = 0; i < num_records; i++)
        records[i] = *record_at(ring, tail + i);
    atomic_store_explicit(&ring->tail, tail + num_records, TOKEN_RING_POP_ORDER);
    return num_records;
}

bool token_ring_take_stalled(token_ring *ring)
{
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_relaxed);
    if (!is_room_again(ring, ring->capacity - num_ready(ring, tail)))
        return false;
    return end_stall(ring);
}

/* ---- states ---- */

static bool set_once(_Atomic int *field, token_state state)
{
    int expected = TOKEN_OPEN;
    return atomic_compare_exchange_strong_explicit(field, &expected, (int)state,
                                                   memory_order_acq_rel, memory_order_acquire);
}

bool token_ring_request_cancel(token_ring *ring, token_state wish)
{
    assert(wish == TOKEN_CANCELLED || wish == TOKEN_DEADLINE || wish == TOKEN_STOP);
    return set_once(&ring->cancel_state, wish);
}

bool token_ring_finish(token_ring *ring, token_state state)
{
    assert(state > TOKEN_OPEN && state <= TOKEN_ERROR);
    if (!set_once(&ring->state, state))
        return false;
    end_stall(ring); /* nobody waits any more */
    return true;
}

token_state token_ring_state(const token_ring *ring)
{
    return (token_state)atomic_load_explicit(&ring->state, memory_order_acquire);
}

void token_ring_renew(token_ring *ring)
{
    atomic_fetch_add_explicit(&ring->num_renewals, 1, memory_order_relaxed);
}

token_state token_ring_cancel_state(const token_ring *ring)
{
    return (token_state)atomic_load_explicit(&ring->cancel_state, memory_order_acquire);
}

/* ---- figures ---- */

size_t token_ring_length(const token_ring *ring)
{
    /* Tail first: read later, it could have passed this head. Another thread may see more
     * than the capacity if many records went through between the two loads. */
    uint64_t tail = atomic_load_explicit(&ring->tail, memory_order_acquire);
    size_t length = num_ready(ring, tail);
    return length < ring->capacity ? length : ring->capacity;
}

bool token_ring_is_stalled(const token_ring *ring)
{
    return atomic_load_explicit(&ring->stalled_since_ns, memory_order_relaxed) != 0;
}

int64_t token_ring_stalled_ns(const token_ring *ring)
{
    int64_t ended_ns = atomic_load_explicit(&ring->stalled_ns, memory_order_relaxed);
    int64_t since_ns = atomic_load_explicit(&ring->stalled_since_ns, memory_order_relaxed);
    return since_ns == 0 ? ended_ns : ended_ns + now_ns() - since_ns;
}

size_t token_ring_capacity(const token_ring *ring)
{
    return ring->capacity;
}
