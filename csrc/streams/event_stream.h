/* event_stream: the records of a token ring to server-sent events.
 *
 *     ring ─▶ text_decoder ─▶ prefix + text + suffix, for each token that has text
 *
 * The consumer's end of a stream that needs no Python for its tokens. All events of a stream are
 * alike but for their text, so whoever makes one says what stands before and after it. The core
 * does no I/O: the time is passed in, the events go to a buffer. One thread at a time. */
#ifndef REALTIME_SERVE_EVENT_STREAM_H
#define REALTIME_SERVE_EVENT_STREAM_H

#include "streams/byte_buffer.h"
#include "streams/text_decoder.h"
#include "streams/token_times.h"
#include "token_ring.h"

typedef struct event_stream {
    token_ring *ring; /* owned: one reference */
    text_decoder decoder;
    token_times *times; /* not owned */
    byte_buffer frame;  /* prefix and suffix */
    size_t num_prefix_bytes;
    token_record last; /* said to be the last one; its event waits for the terminal state */
    bool has_last;
    bool failed;         /* a take has failed: there is nothing more to be had */
    bool producer_waits; /* set when the producer wants to be kicked; the caller clears it */
    token_state end;     /* terminal once all that the ring held has been written */
} event_stream;

/* Begins to read a ring, and takes a reference to it. The table and the times must outlive the
 * stream. */
void event_stream_init(event_stream *stream, token_ring *ring, const text_table *table,
                       token_times *times);

/* Says what stands before and after the text of each event; to be done before the first take.
 * Returns false if there is no memory. */
bool event_stream_set_frame(event_stream *stream, const void *prefix, size_t num_prefix_bytes,
                            const void *suffix, size_t num_suffix_bytes);

/* Gives everything back. */
void event_stream_free(event_stream *stream);

/* Whether take has something to do: records, or an end that it has not seen. */
bool event_stream_is_ready(const event_stream *stream);

/* Appends the events of the tokens that are ready, and notes their time. Stops early, between two
 * tokens, once the buffer holds max_bytes or a few events more. Returns false if there is no
 * memory: the stream has failed then, and what was appended is half an event. */
bool event_stream_take(event_stream *stream, double now_s, size_t max_bytes, byte_buffer *out);

#endif
