/* token_ring: the bounded ring that carries one stream's tokens from the inference thread
 * (the producer) to whoever reads the stream (the consumer).
 *
 *   producer thread                                                consumer thread
 *        |            records[capacity], a power of two                  |
 *      push ──▶ head   [ . . . t t t t t . . . . . ]   tail ──▶ pop
 *                            ▲tail     ▲head
 *   beside the records:  state         OPEN, then one terminal state, once
 *                        cancel_state  what the consumer wishes, if it wishes the end
 *                        stalled       the producer found no room and waits for a kick
 *
 * head and tail count records since the beginning, so they are never equal by wrapping, and
 * each is written by one side only. A record is written before head is stored with release
 * order and read after head was loaded with acquire order; the same holds for tail and the
 * place that it frees. The terminal state is a field and not a record: a full ring cannot
 * lose it.
 *
 * Nothing here blocks, allocates (but token_ring_new) or knows Python.
 */
#ifndef REALTIME_SERVE_TOKEN_RING_H
#define REALTIME_SERVE_TOKEN_RING_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* 2^20 records are 16 MiB: more than any stream may run ahead of its reader. */
#define TOKEN_RING_MAX_CAPACITY ((size_t)1 << 20)

typedef struct token_ring token_ring;

/* 16 bytes, four to a cache line. */
typedef struct token_record {
    double logprob;
    int32_t token_id;
    uint16_t index; /* which of the request's choices */
    uint16_t flags; /* TOKEN_FLAG_* */
} token_record;

#define TOKEN_FLAG_NO_TEXT 1u /* the token ends the sequence and is no part of the text */
#define TOKEN_FLAG_LAST 2u    /* no record of this choice follows */

typedef enum token_state {
    TOKEN_OPEN = 0,
    TOKEN_STOP = 1,
    TOKEN_LENGTH = 2,
    TOKEN_CANCELLED = 3,
    TOKEN_DEADLINE = 4,
    TOKEN_ERROR = 5,
} token_state;

/* ---- life: any thread ---- */

/* Makes an open, empty ring with one reference, the caller's. The capacity is rounded up to
 * a power of two. Returns NULL with errno EINVAL (capacity is 0 or above
 * TOKEN_RING_MAX_CAPACITY) or ENOMEM. */
token_ring *token_ring_new(size_t capacity);

/* Adds a reference and returns the ring. The caller must own one already. */
token_ring *token_ring_retain(token_ring *ring);

/* Gives one reference back; the last one frees the ring. NULL is let through. */
void token_ring_release(token_ring *ring);

/* ---- the producer's thread only ---- */

/* Appends one record. Returns false, and writes nothing, if the ring is full. */
bool token_ring_push(token_ring *ring, const token_record *record);

/* How many records can be pushed now; it can only grow until the next push. */
size_t token_ring_free_space(const token_ring *ring);

/* Records popped and renewals so far. Read twice alike, the reader has done nothing between. */
uint64_t token_ring_reader_activity(const token_ring *ring);

/* Says that the producer found too little room and will not look again until it is kicked.
 * Returns true if the consumer will see that: token_ring_take_stalled() is then true, once,
 * as soon as half the ring is free. Returns false, and takes the mark back, if half the ring
 * is free already: look again. Whatever the interleaving, one of the two happens, so a
 * producer that needs at most half the ring at a time (one record, in a ring of one) is
 * never left waiting. */
bool token_ring_mark_stalled(token_ring *ring);

/* ---- the consumer's thread only ---- */

/* Moves up to max_records ready records to records, oldest first. Returns how many. */
size_t token_ring_pop(token_ring *ring, token_record *records, size_t max_records);

/* True, once, if the producer is stalled and half the ring is free: the consumer must then
 * kick it. To be asked after each pop that returned records. */
bool token_ring_take_stalled(token_ring *ring);

/* Asks the producer to end. The first wish stays. Returns false if there was one already.
 * wish is TOKEN_CANCELLED, TOKEN_DEADLINE or TOKEN_STOP (the text was cut). */
bool token_ring_request_cancel(token_ring *ring, token_state wish);

/* ---- any thread ---- */

/* Ends the stream: OPEN becomes the terminal state, and a stall is over. Whoever sees that
 * state also sees every record that the calling thread pushed before. Returns false, and changes
 * nothing, if the stream had ended already. What is pushed later may never be read. */
bool token_ring_finish(token_ring *ring, token_state state);

/* The terminal state, or TOKEN_OPEN. A consumer reads it before its last pop: a terminal
 * state followed by an empty pop is the end. */
token_state token_ring_state(const token_ring *ring);

/* Counts as activity of the reader, who is still at what was popped last. */
void token_ring_renew(token_ring *ring);

/* What was asked for by token_ring_request_cancel(), or TOKEN_OPEN. */
token_state token_ring_cancel_state(const token_ring *ring);

/* Records ready. Exact in the consumer's and the producer's thread, a recent figure in
 * any other. */
size_t token_ring_length(const token_ring *ring);

/* Whether the producer has said that it waits for room, and has not got it. */
bool token_ring_is_stalled(const token_ring *ring);

/* How long it has waited so far, all stalls of an open stream together. */
int64_t token_ring_stalled_ns(const token_ring *ring);

/* The rounded capacity. */
size_t token_ring_capacity(const token_ring *ring);

#endif
