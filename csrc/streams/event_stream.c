#include "streams/event_stream.h"

/* Records that are popped at once: a buffer exceeds its limit by their events at most. */
#define CHUNK_RECORDS 16

void event_stream_init(event_stream *stream, token_ring *ring, const text_table *table,
                       token_times *times)
{
    *stream = (event_stream){
        .ring = token_ring_retain(ring),
        .times = times,
        .end = TOKEN_OPEN,
    };
    text_decoder_init(&stream->decoder, table);
}

bool event_stream_set_frame(event_stream *stream, const void *prefix, size_t num_prefix_bytes,
                            const void *suffix, size_t num_suffix_bytes)
{
    stream->num_prefix_bytes = num_prefix_bytes;
    return byte_buffer_append(&stream->frame, prefix, num_prefix_bytes) &&
           byte_buffer_append(&stream->frame, suffix, num_suffix_bytes);
}

void event_stream_free(event_stream *stream)
{
    text_decoder_free(&stream->decoder);
    byte_buffer_free(&stream->frame);
    token_ring_release(stream->ring);
    stream->ring = NULL;
}

bool event_stream_is_ready(const event_stream *stream)
{
    if (stream->failed || stream->end != TOKEN_OPEN)
        return false;
    return token_ring_length(stream->ring) > 0 || token_ring_state(stream->ring) != TOKEN_OPEN;
}

/* ---- one event ---- */

static bool append_text(event_stream *stream, const token_record *record, bool is_final,
                        byte_buffer *out)
{
    bool has_text = (record->flags & TOKEN_FLAG_NO_TEXT) == 0;
    if (has_text && !text_decoder_add(&stream->decoder, record->token_id, out))
        return false;
    return !is_final || text_decoder_finish(&stream->decoder, out);
}

/* A token without text makes no event. */
static bool append_event(event_stream *stream, const token_record *record, bool is_final,
                         byte_buffer *out)
{
    const byte_buffer *frame = &stream->frame;
    size_t event_start = out->size;
    if (!byte_buffer_append(out, frame->bytes, stream->num_prefix_bytes))
        return false;
    size_t text_start = out->size;
    if (!append_text(stream, record, is_final, out))
        return false;
    if (out->size == text_start) {
        out->size = event_start;
        return true;
    }
    return byte_buffer_append(out, frame->bytes + stream->num_prefix_bytes,
                              frame->size - stream->num_prefix_bytes);
}

/* ---- all that are ready ---- */

/* The latest record is held in `last` until it is known whether another one follows, since the
 * last event of a stream also has the text that its decoder kept back. */
static bool append_all_but_last(event_stream *stream, const token_record *records,
                                size_t num_records, byte_buffer *out)
{
    for (size_t i = 0; i < num_records; i++) {
        if (stream->has_last && !append_event(stream, &stream->last, false, out))
            return false;
        stream->last = records[i];
        stream->has_last = true;
    }
    return true;
}

static bool append_last(event_stream *stream, token_state state, byte_buffer *out)
{
    bool is_end = state != TOKEN_OPEN && token_ring_length(stream->ring) == 0;
    bool waits_for_end = !is_end && (stream->last.flags & TOKEN_FLAG_LAST) != 0;
    if (stream->has_last && !waits_for_end) {
        if (!append_event(stream, &stream->last, is_end, out))
            return false;
        stream->has_last = false;
    }
    if (is_end)
        stream->end = state;
    return true;
}

/* Returns how many records were taken; they are noted even if there is no memory for the rest. */
static size_t append_ready(event_stream *stream, size_t max_bytes, byte_buffer *out)
{
    token_record records[CHUNK_RECORDS];
    size_t num_taken = 0;
    size_t num_popped;
    while (!stream->failed && out->size < max_bytes &&
           (num_popped = token_ring_pop(stream->ring, records, CHUNK_RECORDS)) > 0) {
        num_taken += num_popped;
        stream->failed = !append_all_but_last(stream, records, num_popped, out);
    }
    return num_taken;
}

bool event_stream_take(event_stream *stream, double now_s, size_t max_bytes, byte_buffer *out)
{
    token_state state = token_ring_state(stream->ring); /* before the pop: it covers all records */
    size_t num_taken = append_ready(stream, max_bytes, out);
    if (num_taken > 0) {
        token_times_note(stream->times, num_taken, now_s);
        stream->producer_waits |= token_ring_take_stalled(stream->ring);
    }
    if (!stream->failed)
        stream->failed = !append_last(stream, state, out);
    return !stream->failed;
}
