/* answer: one HTTP/1.1 answer, read piece by piece as it arrives.
 *
 * The head is read line by line; the body, chunked or of a known length, is handed out line by line
 * as well, because the fields of a server-sent event are lines. Nothing here does I/O.
 */
#ifndef ANSWER_H
#define ANSWER_H

#include <stdbool.h>
#include <stddef.h>

/* Longest line that is understood; an event of a token takes a tenth of it. */
#define ANSWER_MAX_LINE 2048

/* A line that has not come to its end. */
struct answer_line {
    size_t length;
    char text[ANSWER_MAX_LINE];
};

enum answer_part {
    ANSWER_STATUS_LINE,
    ANSWER_HEADER,
    ANSWER_CHUNK_SIZE,
    ANSWER_CHUNK,
    ANSWER_CHUNK_END,
    ANSWER_TRAILER,
    ANSWER_BODY, /* of known length */
    ANSWER_COMPLETE,
    ANSWER_BROKEN
};

struct answer {
    enum answer_part part; /* what comes next */
    int status;
    bool is_chunked;
    size_t num_remaining; /* bytes of the chunk or of the body */
    struct answer_line head;
    struct answer_line body;
};

/* Takes one line of the body, without its end. */
typedef void answer_on_line(void *context, const char *line, size_t length);

/* Makes it ready for the next answer. */
void answer_begin(struct answer *answer);

/* Takes what arrived. Afterwards answer->part is ANSWER_COMPLETE if the answer is over,
 * ANSWER_BROKEN if it is no HTTP, too long a line or longer than it said, and else what comes next. */
void answer_feed(struct answer *answer, const char *bytes, size_t num_bytes,
                 answer_on_line *on_line, void *context);

#endif
