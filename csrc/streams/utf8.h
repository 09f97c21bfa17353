/* utf8: bytes that come in pieces to whole characters.
 *
 * What is no UTF-8 becomes U+FFFD, one for each longest beginning of a character and one for
 * each byte that cannot begin one, as Python's decoder and the Unicode standard have it. Hence
 * whatever is kept when a piece ends stands for exactly one U+FFFD if nothing completes it. */
#ifndef REALTIME_SERVE_UTF8_H
#define REALTIME_SERVE_UTF8_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define UTF8_MAX_BYTES 4
#define UTF8_REPLACEMENT "\xef\xbf\xbd"
#define UTF8_REPLACEMENT_BYTES 3

/* The beginning of a character; zeroed when there is none. */
typedef struct utf8_part {
    uint8_t bytes[UTF8_MAX_BYTES];
    uint8_t num_bytes;
    uint8_t num_missing;
    uint8_t lowest;  /* what the next byte must be */
    uint8_t highest;
} utf8_part;

typedef enum utf8_result {
    UTF8_KEPT,      /* the byte goes on with a character, or begins one */
    UTF8_CHARACTER, /* part->bytes is a whole character, to be taken before the next call */
    UTF8_WRONG,     /* the byte begins no character */
    UTF8_CUT,       /* what was kept is no character; the byte was not looked at: give it again */
} utf8_result;

/* Takes one byte. The part is empty again after all results but UTF8_KEPT: num_missing says so,
 * the bytes stay until the next call. */
utf8_result utf8_take(utf8_part *part, uint8_t byte);

/* Whether something is kept. */
static inline bool utf8_is_pending(const utf8_part *part)
{
    return part->num_missing > 0;
}

/* Whether all of the bytes are whole characters. */
bool utf8_is_valid(const void *bytes, size_t num_bytes);

#endif
