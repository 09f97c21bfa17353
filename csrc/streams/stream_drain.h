/* stream_drain: one pass over the streams of a hub, from their rings to their sockets.
 *
 *     take the events of each stream that has tokens; then send for all of them, in one burst
 *
 * A stream whose client wants it whole has no socket: its events are collected.
 *
 * What needs more than that is said in drained_stream.attention, for Python to see to: nothing in
 * an ordinary pass. A pass never blocks, and takes a bounded part of each ring, so that no stream
 * keeps its hub from the others. The hub's thread only. */
#ifndef REALTIME_SERVE_STREAM_DRAIN_H
#define REALTIME_SERVE_STREAM_DRAIN_H

#include "streams/chunked_output.h"
#include "streams/event_stream.h"

enum drain_attention {
    DRAIN_ENDED = 1u,     /* its last event has been taken, whether or not it has been sent */
    DRAIN_CANCELLED = 2u, /* somebody has asked for its end, or cut it */
    DRAIN_BLOCKED = 4u,   /* its client does not keep up */
    DRAIN_DEAD = 8u,      /* its client is gone */
    DRAIN_STARVED = 16u,  /* the engine wants to be kicked */
    DRAIN_FAILED = 32u,   /* there was no memory for its events */
    DRAIN_AGAIN = 64u,    /* more waits in its ring than one pass takes: pass again soon */
};

typedef struct drained_stream {
    event_stream *events;  /* not owned */
    byte_buffer *collected; /* not owned: where the events go; NULL if they are sent */
    chunked_output output;  /* zeroed if they are not */
    unsigned attention;    /* of the latest pass */
} drained_stream;

/* Takes what is ready and sends it, for one stream. Afterwards attention is up to date. */
void drained_stream_pass(drained_stream *stream, double now_s);

/* The same for all of them, with the sends of all streams after the takes of all. Returns how many
 * want attention. */
size_t stream_drain_pass(drained_stream *const *streams, size_t num_streams, double now_s);

#endif
