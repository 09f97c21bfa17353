/* json_escape: UTF-8 text as the inside of a JSON string, in the spelling of Python's json with
 * ensure_ascii off: only quotes, backslashes and control characters are escaped. */
#ifndef REALTIME_SERVE_JSON_ESCAPE_H
#define REALTIME_SERVE_JSON_ESCAPE_H

#include "streams/byte_buffer.h"

/* Appends the text without quotes around it. Returns false if there is no memory; then part of
 * the text may have been appended. */
bool json_escape_append(byte_buffer *buffer, const void *text, size_t num_bytes);

#endif
