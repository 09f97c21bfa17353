#include "streams/text_table.h"

#include <assert.h>
#include <stdlib.h>

#include "streams/json_escape.h"
#include "streams/utf8.h"

/* 12 bytes a token. Offsets and not pointers: the bytes move while they are collected. */
struct stored_entry {
    uint32_t offset;
    uint32_t num_bytes;
    uint8_t kind;
};

struct text_table {
    byte_buffer bytes; /* of all tokens, one after the other */
    size_t num_tokens;
    size_t num_leading_spaces;
    text_join join;
    struct stored_entry entries[];
};

text_table *text_table_new(size_t num_tokens, text_join join, size_t num_leading_spaces)
{
    if (num_tokens > INT32_MAX)
        return NULL;
    text_table *table = calloc(1, sizeof(text_table) + num_tokens * sizeof(struct stored_entry));
    if (table == NULL)
        return NULL;
    table->num_tokens = num_tokens;
    table->join = join;
    table->num_leading_spaces = num_leading_spaces;
    return table;
}

void text_table_free(text_table *table)
{
    if (table == NULL)
        return;
    byte_buffer_free(&table->bytes);
    free(table);
}

static bool store(text_table *table, const void *bytes, size_t num_bytes, text_kind kind)
{
    if (kind == TEXT_WHOLE)
        return json_escape_append(&table->bytes, bytes, num_bytes);
    return byte_buffer_append(&table->bytes, bytes, num_bytes);
}

static text_kind kind_of(const void *bytes, size_t num_bytes, bool is_byte_token)
{
    if (num_bytes == 0)
        return TEXT_NONE;
    return !is_byte_token && utf8_is_valid(bytes, num_bytes) ? TEXT_WHOLE : TEXT_BYTES;
}

bool text_table_set(text_table *table, size_t token_id, const void *bytes, size_t num_bytes,
                    bool is_byte_token)
{
    assert(token_id < table->num_tokens);
    text_kind kind = kind_of(bytes, num_bytes, is_byte_token);
    size_t offset = table->bytes.size;
    if (!store(table, bytes, num_bytes, kind) || table->bytes.size > UINT32_MAX) {
        table->bytes.size = offset;
        return false;
    }
    table->entries[token_id] = (struct stored_entry){
        .offset = (uint32_t)offset,
        .num_bytes = (uint32_t)(table->bytes.size - offset),
        .kind = (uint8_t)kind,
    };
    return true;
}

text_entry text_table_entry(const text_table *table, int32_t token_id)
{
    if (token_id < 0 || (size_t)token_id >= table->num_tokens)
        return (text_entry){.kind = TEXT_NONE};
    const struct stored_entry *entry = &table->entries[token_id];
    if (entry->kind == TEXT_NONE)
        return (text_entry){.kind = TEXT_NONE};
    return (text_entry){table->bytes.bytes + entry->offset, entry->num_bytes,
                        (text_kind)entry->kind};
}

text_join text_table_join(const text_table *table)
{
    return table->join;
}

size_t text_table_num_leading_spaces(const text_table *table)
{
    return table->num_leading_spaces;
}
