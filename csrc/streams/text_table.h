/* text_table: what each token of a vocabulary adds to a text that goes out as JSON.
 *
 * Prepared once for a vocabulary, so that an ordinary token costs its stream one copy:
 *
 *     none    no text: special tokens, ids without a token
 *     whole   text that does not depend on its neighbours, escaped for JSON
 *     bytes   what is text only together with its neighbours' bytes, as it is
 *
 * How bytes of neighbours are joined is the vocabulary's: see text_join. A table is filled by one
 * thread and then only read, by any number of text_decoders in any threads. */
#ifndef REALTIME_SERVE_TEXT_TABLE_H
#define REALTIME_SERVE_TEXT_TABLE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef enum text_join {
    TEXT_JOIN_STREAM, /* byte-level vocabularies: each character as soon as it is complete */
    TEXT_JOIN_RUN,    /* SentencePiece: a run of byte tokens waits for its end; if one byte of it
                         is wrong, each of them becomes U+FFFD */
} text_join;

typedef enum text_kind {
    TEXT_NONE = 0,
    TEXT_WHOLE,
    TEXT_BYTES,
} text_kind;

typedef struct text_entry {
    const char *bytes;
    size_t num_bytes;
    text_kind kind;
} text_entry;

typedef struct text_table text_table;

/* Makes a table in which no token has text. num_leading_spaces: how many spaces at the beginning
 * of a text are left out. Returns NULL if there is no memory. */
text_table *text_table_new(size_t num_tokens, text_join join, size_t num_leading_spaces);

/* NULL is let through. */
void text_table_free(text_table *table);

/* Says what a token adds. Bytes that are valid UTF-8 make it whole, but for a byte token of
 * TEXT_JOIN_RUN, which is_byte_token tells. token_id must be below num_tokens; what was said
 * last holds. Returns false if there is no memory. */
bool text_table_set(text_table *table, size_t token_id, const void *bytes, size_t num_bytes,
                    bool is_byte_token);

/* What a token adds; the bytes stay where they are only until the next set. Any id may be asked
 * for. */
text_entry text_table_entry(const text_table *table, int32_t token_id);

text_join text_table_join(const text_table *table);
size_t text_table_num_leading_spaces(const text_table *table);

#endif
