#include "streams/stream_drain.h"

static bool is_due(const drained_stream *stream)
{
    return stream->output.state == CHUNKED_OUTPUT_READY &&
           chunked_output_num_unsent(&stream->output) == 0 &&
           event_stream_is_ready(stream->events);
}

/* Takes up to the output's bound. Without memory the stream has failed, between two chunks. */
static void fill(drained_stream *stream, double now_s)
{
    chunked_output *output = &stream->output;
    if (stream->collected != NULL) {
        size_t max_bytes = stream->collected->size + CHUNKED_OUTPUT_MAX_BUFFERED_BYTES;
        (void)event_stream_take(stream->events, now_s, max_bytes, stream->collected);
    } else if (!chunked_output_begin(output)) {
        stream->events->failed = true;
    } else if (!event_stream_take(stream->events, now_s, CHUNKED_OUTPUT_MAX_BUFFERED_BYTES,
                                  &output->bytes)) {
        chunked_output_abandon(output);
    } else if (!chunked_output_end(output)) {
        stream->events->failed = true;
    }
}

static void note_attention(drained_stream *stream)
{
    const event_stream *events = stream->events;
    stream->attention = 0;
    if (events->end != TOKEN_OPEN)
        stream->attention |= DRAIN_ENDED;
    if (token_ring_cancel_state(events->ring) != TOKEN_OPEN ||
        token_ring_state(events->ring) == TOKEN_CANCELLED)
        stream->attention |= DRAIN_CANCELLED;
    if (events->producer_waits)
        stream->attention |= DRAIN_STARVED;
    if (stream->output.state == CHUNKED_OUTPUT_BLOCKED)
        stream->attention |= DRAIN_BLOCKED;
    if (stream->output.state == CHUNKED_OUTPUT_DEAD)
        stream->attention |= DRAIN_DEAD;
    if (events->failed)
        stream->attention |= DRAIN_FAILED;
    if (is_due(stream))
        stream->attention |= DRAIN_AGAIN;
}

static void take(drained_stream *stream, double now_s)
{
    if (is_due(stream))
        fill(stream, now_s);
}

static void send_taken(drained_stream *stream)
{
    chunked_output_flush(&stream->output);
    note_attention(stream);
}

void drained_stream_pass(drained_stream *stream, double now_s)
{
    take(stream, now_s);
    send_taken(stream);
}

size_t stream_drain_pass(drained_stream *const *streams, size_t num_streams, double now_s)
{
    for (size_t i = 0; i < num_streams; i++)
        take(streams[i], now_s);
    size_t num_attended = 0;
    for (size_t i = 0; i < num_streams; i++) {
        send_taken(streams[i]);
        num_attended += streams[i]->attention != 0;
    }
    return num_attended;
}
