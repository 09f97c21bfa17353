/* text_decoder: the tokens of one stream to text that is escaped for JSON, one at a time.
 *
 * What has been written plus what text_decoder_finish() writes is always the text of all tokens;
 * a decoder runs ahead only as far as later tokens cannot change the text. It does what
 * text/detokenizer.py does for byte-level and SentencePiece vocabularies, and is tested against
 * it. One stream, one thread at a time. */
#ifndef REALTIME_SERVE_TEXT_DECODER_H
#define REALTIME_SERVE_TEXT_DECODER_H

#include "streams/byte_buffer.h"
#include "streams/text_table.h"
#include "streams/utf8.h"

typedef struct text_decoder {
    const text_table *table;   /* not owned */
    utf8_part part;            /* TEXT_JOIN_STREAM */
    byte_buffer run;           /* TEXT_JOIN_RUN */
    size_t num_leading_spaces; /* that may still be left out */
} text_decoder;

/* Begins a text. The table must outlive the decoder. */
void text_decoder_init(text_decoder *decoder, const text_table *table);

/* Gives memory back. */
void text_decoder_free(text_decoder *decoder);

/* Appends what is certain now that this token has come; often nothing, never half a character.
 * Returns false if there is no memory; the text is damaged then. */
bool text_decoder_add(text_decoder *decoder, int32_t token_id, byte_buffer *out);

/* Appends the rest; an incomplete character becomes U+FFFD. Returns false as above. */
bool text_decoder_finish(text_decoder *decoder, byte_buffer *out);

#endif
