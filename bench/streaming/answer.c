#define _GNU_SOURCE 1 /* strncasecmp beside C11 */

#include "answer.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What is left of the bytes that arrived. */
struct input {
    const char *next;
    const char *end;
};

enum line_result { LINE_WHOLE, LINE_UNFINISHED, LINE_TOO_LONG };

void answer_begin(struct answer *answer)
{
    answer->part = ANSWER_STATUS_LINE;
    answer->status = 0;
    answer->is_chunked = false;
    answer->num_remaining = 0;
    answer->head.length = 0;
    answer->body.length = 0;
}

static bool keep(struct answer_line *line, const char *text, size_t length)
{
    if (line->length + length >= sizeof line->text)
        return false;
    memcpy(line->text + line->length, text, length);
    line->length += length;
    line->text[line->length] = '\0';
    return true;
}

/* Takes a line out of the input. *text is it, without its end: in place if all of it is there, as
 * nearly always, and else in `unfinished`, which keeps its beginning. */
static enum line_result take_line(struct answer_line *unfinished, struct input *input,
                                  const char **text, size_t *length)
{
    const char *start = input->next;
    const char *newline = memchr(start, '\n', (size_t)(input->end - start));
    const char *end = newline == NULL ? input->end : newline;
    input->next = newline == NULL ? end : end + 1;
    if (newline != NULL && unfinished->length == 0) {
        *text = start;
        *length = (size_t)(end - start);
    } else if (!keep(unfinished, start, (size_t)(end - start))) {
        return LINE_TOO_LONG;
    } else if (newline == NULL) {
        return LINE_UNFINISHED;
    } else {
        *text = unfinished->text;
        *length = unfinished->length;
        unfinished->length = 0;
    }
    if (*length > 0 && (*text)[*length - 1] == '\r')
        --*length;
    return LINE_WHOLE;
}

static bool starts_with(const char *text, size_t length, const char *prefix)
{
    size_t prefix_length = strlen(prefix);
    return length >= prefix_length && strncasecmp(text, prefix, prefix_length) == 0;
}

/* --- the head ------------------------------------------------------------------------------- */

/* A line is followed by its end or by a NUL, where strtol stops at the latest. */
static enum answer_part after_status_line(struct answer *answer, const char *line, size_t length)
{
    if (!starts_with(line, length, "HTTP/1.1 "))
        return ANSWER_BROKEN;
    answer->status = (int)strtol(line + strlen("HTTP/1.1 "), NULL, 10);
    return ANSWER_HEADER;
}

static enum answer_part after_header(struct answer *answer, const char *line, size_t length)
{
    const char *const length_name = "content-length:";
    if (starts_with(line, length, "transfer-encoding: chunked")) {
        answer->is_chunked = true;
    } else if (starts_with(line, length, length_name)) {
        answer->num_remaining = strtoul(line + strlen(length_name), NULL, 10);
    } else if (length == 0) {
        if (answer->is_chunked)
            return ANSWER_CHUNK_SIZE;
        return answer->num_remaining > 0 ? ANSWER_BODY : ANSWER_COMPLETE;
    }
    return ANSWER_HEADER;
}

static enum answer_part after_chunk_size(struct answer *answer, const char *line, size_t length)
{
    if (length == 0 || !isxdigit((unsigned char)line[0]))
        return ANSWER_BROKEN;
    answer->num_remaining = strtoul(line, NULL, 16);
    return answer->num_remaining > 0 ? ANSWER_CHUNK : ANSWER_TRAILER;
}

static enum answer_part after_line(struct answer *answer, const char *line, size_t length)
{
    switch (answer->part) {
    case ANSWER_STATUS_LINE:
        return after_status_line(answer, line, length);
    case ANSWER_HEADER:
        return after_header(answer, line, length);
    case ANSWER_CHUNK_SIZE:
        return after_chunk_size(answer, line, length);
    case ANSWER_CHUNK_END:
        return length == 0 ? ANSWER_CHUNK_SIZE : ANSWER_BROKEN;
    case ANSWER_TRAILER:
        return length == 0 ? ANSWER_COMPLETE : ANSWER_TRAILER;
    default:
        return ANSWER_BROKEN;
    }
}

/* --- the body ------------------------------------------------------------------------------- */

static bool is_in_body(const struct answer *answer)
{
    return answer->part == ANSWER_CHUNK || answer->part == ANSWER_BODY;
}

static void read_body(struct answer *answer, struct input *input, answer_on_line *on_line,
                      void *context)
{
    size_t num_here = (size_t)(input->end - input->next);
    size_t num_bytes = num_here < answer->num_remaining ? num_here : answer->num_remaining;
    struct input body = {input->next, input->next + num_bytes};
    const char *line;
    size_t length;
    while (body.next < body.end) {
        enum line_result result = take_line(&answer->body, &body, &line, &length);
        if (result == LINE_WHOLE)
            on_line(context, line, length);
        if (result == LINE_TOO_LONG) {
            answer->part = ANSWER_BROKEN;
            return;
        }
    }
    input->next += num_bytes;
    answer->num_remaining -= num_bytes;
    if (answer->num_remaining == 0)
        answer->part = answer->part == ANSWER_CHUNK ? ANSWER_CHUNK_END : ANSWER_COMPLETE;
}

static void read_head(struct answer *answer, struct input *input)
{
    const char *line;
    size_t length;
    enum line_result result = take_line(&answer->head, input, &line, &length);
    if (result == LINE_WHOLE)
        answer->part = after_line(answer, line, length);
    else if (result == LINE_TOO_LONG)
        answer->part = ANSWER_BROKEN;
}

void answer_feed(struct answer *answer, const char *bytes, size_t num_bytes,
                 answer_on_line *on_line, void *context)
{
    struct input input = {bytes, bytes + num_bytes};
    while (input.next < input.end && answer->part != ANSWER_BROKEN) {
        if (answer->part == ANSWER_COMPLETE)
            answer->part = ANSWER_BROKEN;
        else if (is_in_body(answer))
            read_body(answer, &input, on_line, context);
        else
            read_head(answer, &input);
    }
}
