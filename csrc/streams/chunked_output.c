#define _GNU_SOURCE 1

#include "streams/chunked_output.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdint.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define LINE_END "\r\n"
#define LINE_END_BYTES 2
#define LAST_CHUNK "0\r\n\r\n"
#define MAX_HEAD_BYTES (2 * sizeof(size_t) + LINE_END_BYTES)

/* The socket is writable again when half of this is still to be sent. Without it the kernel
 * would say so only after a third of its own megabytes were free. */
#define WRITABLE_BELOW_BYTES (16 * 1024)

/* What may be sent after a blocked socket became writable, whatever is on its way: to a client
 * far away, as much as the bound may be in flight although it reads at once. */
#define RESUME_BYTES ((size_t)8 * 1024)

#define SYSTEMS_DEFAULT 0

/* Not for Unix sockets, whose queue is short anyway. */
static void set_writable_below(const chunked_output *output, int num_bytes)
{
    (void)setsockopt(output->fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &num_bytes, sizeof num_bytes);
}

bool chunked_output_open(chunked_output *output, int fd)
{
    *output = (chunked_output){.state = CHUNKED_OUTPUT_READY};
    output->fd = fcntl(fd, F_DUPFD_CLOEXEC, 0);
    if (output->fd < 0)
        return false;
    set_writable_below(output, WRITABLE_BELOW_BYTES);
    return true;
}

static void lose_unsent(chunked_output *output)
{
    output->num_lost += chunked_output_num_unsent(output);
    chunked_output_abandon(output);
}

void chunked_output_abort(chunked_output *output)
{
    if (output->fd >= 0)
        shutdown(output->fd, SHUT_RDWR);
    output->state = CHUNKED_OUTPUT_DEAD;
    lose_unsent(output);
}

void chunked_output_close(chunked_output *output)
{
    if (output->fd < 0)
        return;
    if (chunked_output_num_unsent(output) > 0)
        chunked_output_abort(output);
    set_writable_below(output, SYSTEMS_DEFAULT); /* for the connection's next answers */
    close(output->fd);
    output->fd = -1;
    output->state = CHUNKED_OUTPUT_DEAD;
    output->start = 0;
    byte_buffer_free(&output->bytes);
}

/* ---- framing ---- */

/* Writes the size in hexadecimal digits and the end of its line; snprintf would take as long as
 * all else that is done for an event. Returns how many bytes these are. */
static size_t format_head(char head[MAX_HEAD_BYTES], size_t num_bytes)
{
    size_t num_digits = 1;
    while (num_digits < 2 * sizeof num_bytes && num_bytes >> (4 * num_digits) != 0)
        num_digits++;
    for (size_t i = 0; i < num_digits; i++)
        head[i] = "0123456789abcdef"[num_bytes >> (4 * (num_digits - 1 - i)) & 15];
    memcpy(head + num_digits, LINE_END, LINE_END_BYTES);
    return num_digits + LINE_END_BYTES;
}

bool chunked_output_begin(chunked_output *output)
{
    static const char room[MAX_HEAD_BYTES];
    assert(chunked_output_num_unsent(output) == 0);
    output->bytes.size = 0;
    output->start = 0;
    if (!byte_buffer_append(&output->bytes, room, MAX_HEAD_BYTES))
        return false;
    output->start = MAX_HEAD_BYTES;
    return true;
}

void chunked_output_abandon(chunked_output *output)
{
    output->bytes.size = 0;
    output->start = 0;
}

bool chunked_output_end(chunked_output *output)
{
    char head[MAX_HEAD_BYTES];
    size_t num_bytes = chunked_output_num_unsent(output);
    if (num_bytes == 0) {
        chunked_output_abandon(output);
        return true;
    }
    size_t num_head_bytes = format_head(head, num_bytes);
    output->start -= num_head_bytes;
    memcpy(output->bytes.bytes + output->start, head, num_head_bytes);
    if (byte_buffer_append(&output->bytes, LINE_END, LINE_END_BYTES))
        return true;
    chunked_output_abandon(output);
    return false;
}

bool chunked_output_write(chunked_output *output, const void *bytes, size_t num_bytes)
{
    char head[MAX_HEAD_BYTES];
    if (num_bytes == 0 || output->state == CHUNKED_OUTPUT_DEAD)
        return true;
    size_t size = output->bytes.size;
    if (byte_buffer_append(&output->bytes, head, format_head(head, num_bytes)) &&
        byte_buffer_append(&output->bytes, bytes, num_bytes) &&
        byte_buffer_append(&output->bytes, LINE_END, LINE_END_BYTES))
        return true;
    output->bytes.size = size;
    return false;
}

/* ---- sending ---- */

/* Looks at the kernel's queue only as often as it can have become full since the last look. */
static bool is_room_in_queue(chunked_output *output)
{
    int num_queued = 0;
    if (output->num_allowed > 0)
        return true;
    if (ioctl(output->fd, SIOCOUTQ, &num_queued) != 0 || num_queued < 0)
        num_queued = 0; /* no such figure: then its own bound has to do */
    if ((size_t)num_queued >= CHUNKED_OUTPUT_MAX_QUEUED_BYTES)
        return false;
    output->num_allowed = CHUNKED_OUTPUT_MAX_QUEUED_BYTES - (size_t)num_queued;
    return true;
}

/* Returns how many bytes the kernel took; 0 says that the state has changed. */
static size_t send_some(chunked_output *output)
{
    size_t num_unsent = chunked_output_num_unsent(output);
    size_t num_bytes = num_unsent < output->num_allowed ? num_unsent : output->num_allowed;
    for (;;) {
        ssize_t num_taken = send(output->fd, output->bytes.bytes + output->start, num_bytes,
                                 MSG_DONTWAIT | MSG_NOSIGNAL);
        if (num_taken > 0)
            return (size_t)num_taken;
        if (num_taken < 0 && errno == EINTR)
            continue;
        bool is_full = num_taken == 0 || errno == EAGAIN || errno == EWOULDBLOCK;
        output->state = is_full ? CHUNKED_OUTPUT_BLOCKED : CHUNKED_OUTPUT_DEAD;
        return 0;
    }
}

static void note_sent(chunked_output *output, size_t num_bytes)
{
    output->start += num_bytes;
    output->num_allowed -= num_bytes;
    output->num_sent += num_bytes;
}

chunked_output_state chunked_output_flush(chunked_output *output)
{
    while (output->state == CHUNKED_OUTPUT_READY && chunked_output_num_unsent(output) > 0) {
        if (is_room_in_queue(output))
            note_sent(output, send_some(output));
        else
            output->state = CHUNKED_OUTPUT_BLOCKED;
    }
    if (chunked_output_num_unsent(output) == 0)
        chunked_output_abandon(output);
    else if (output->state == CHUNKED_OUTPUT_DEAD)
        chunked_output_abort(output); /* a send may fail on a connection that goes on */
    return output->state;
}

chunked_output_state chunked_output_resume(chunked_output *output)
{
    if (output->state == CHUNKED_OUTPUT_BLOCKED) {
        output->state = CHUNKED_OUTPUT_READY;
        if (output->num_allowed < RESUME_BYTES)
            output->num_allowed = RESUME_BYTES;
    }
    return chunked_output_flush(output);
}

/* ---- the end of a client that takes nothing ---- */

bool chunked_output_conclude(chunked_output *output)
{
    bool is_taken = false;
    if (output->state != CHUNKED_OUTPUT_DEAD &&
        byte_buffer_append(&output->bytes, LAST_CHUNK, sizeof LAST_CHUNK - 1)) {
        set_writable_below(output, SYSTEMS_DEFAULT); /* or the kernel would refuse more */
        output->num_allowed = SIZE_MAX;
        output->state = CHUNKED_OUTPUT_READY;
        is_taken = chunked_output_flush(output) == CHUNKED_OUTPUT_READY;
    }
    chunked_output_abort(output); /* what the kernel has taken stays on its way */
    return is_taken;
}
