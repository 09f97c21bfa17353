#include "streams/text_decoder.h"

#include "streams/json_escape.h"

void text_decoder_init(text_decoder *decoder, const text_table *table)
{
    *decoder = (text_decoder){
        .table = table,
        .num_leading_spaces = text_table_num_leading_spaces(table),
    };
}

void text_decoder_free(text_decoder *decoder)
{
    byte_buffer_free(&decoder->run);
}

static bool append_replacements(byte_buffer *out, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!byte_buffer_append(out, UTF8_REPLACEMENT, UTF8_REPLACEMENT_BYTES))
            return false;
    }
    return true;
}

/* ---- bytes that are characters as soon as they are complete ---- */

static bool take_byte(utf8_part *part, uint8_t byte, byte_buffer *out)
{
    utf8_result result = utf8_take(part, byte);
    if (result == UTF8_CUT) {
        if (!append_replacements(out, 1))
            return false;
        result = utf8_take(part, byte);
    }
    if (result == UTF8_CHARACTER)
        return json_escape_append(out, part->bytes, part->num_bytes);
    return result != UTF8_WRONG || append_replacements(out, 1);
}

static bool take_bytes(utf8_part *part, const text_entry *entry, byte_buffer *out)
{
    for (size_t i = 0; i < entry->num_bytes; i++) {
        if (!take_byte(part, (uint8_t)entry->bytes[i], out))
            return false;
    }
    return true;
}

static bool cut_part(utf8_part *part, byte_buffer *out)
{
    if (!utf8_is_pending(part))
        return true;
    *part = (utf8_part){0};
    return append_replacements(out, 1);
}

/* ---- bytes that wait for the end of their run ---- */

static bool end_run(byte_buffer *run, byte_buffer *out)
{
    size_t num_bytes = run->size;
    run->size = 0;
    if (utf8_is_valid(run->bytes, num_bytes))
        return json_escape_append(out, run->bytes, num_bytes);
    return append_replacements(out, num_bytes);
}

/* A space is never escaped, and nothing else is escaped as one. */
static void strip_leading_spaces(text_decoder *decoder, byte_buffer *out, size_t start)
{
    size_t num_spaces = 0;
    size_t num_bytes = out->size - start;
    while (num_spaces < num_bytes && num_spaces < decoder->num_leading_spaces &&
           out->bytes[start + num_spaces] == ' ')
        num_spaces++;
    decoder->num_leading_spaces =
        num_spaces < num_bytes ? 0 : decoder->num_leading_spaces - num_spaces;
    if (num_spaces > 0)
        memmove(out->bytes + start, out->bytes + start + num_spaces, num_bytes - num_spaces);
    out->size -= num_spaces;
}

/* ---- both ---- */

/* What ends with whatever is not a byte. */
static bool end_bytes(text_decoder *decoder, byte_buffer *out)
{
    if (text_table_join(decoder->table) == TEXT_JOIN_STREAM)
        return cut_part(&decoder->part, out);
    return decoder->run.size == 0 || end_run(&decoder->run, out);
}

static bool add_bytes(text_decoder *decoder, const text_entry *entry, byte_buffer *out)
{
    if (text_table_join(decoder->table) == TEXT_JOIN_STREAM)
        return take_bytes(&decoder->part, entry, out);
    return byte_buffer_append(&decoder->run, entry->bytes, entry->num_bytes);
}

static bool add_entry(text_decoder *decoder, const text_entry *entry, byte_buffer *out)
{
    if (entry->kind == TEXT_BYTES)
        return add_bytes(decoder, entry, out);
    return end_bytes(decoder, out) && byte_buffer_append(out, entry->bytes, entry->num_bytes);
}

bool text_decoder_add(text_decoder *decoder, int32_t token_id, byte_buffer *out)
{
    text_entry entry = text_table_entry(decoder->table, token_id);
    if (entry.kind == TEXT_NONE)
        return true;
    size_t start = out->size;
    if (!add_entry(decoder, &entry, out))
        return false;
    if (decoder->num_leading_spaces > 0)
        strip_leading_spaces(decoder, out, start);
    return true;
}

bool text_decoder_finish(text_decoder *decoder, byte_buffer *out)
{
    size_t start = out->size;
    if (!end_bytes(decoder, out))
        return false;
    if (decoder->num_leading_spaces > 0)
        strip_leading_spaces(decoder, out, start);
    return true;
}
