/* floor: a server that does nothing but stream, to show what no server can go below.
 *
 *     floor --port P --step-us U
 *
 * One thread and one epoll. A timer ends each step of U microseconds, and then every stream gets its
 * next token: six digits are written into an event that lies ready, framed as a chunk, and one send
 * takes it to the kernel. With U = 0, a step follows the other. There is no queue, no parsing of
 * JSON, no log, no limit, and a stream that takes no more bytes just misses steps.
 *
 * POST /v1/chat/completions with "max_tokens" in its body is answered by that many tokens; any other
 * request by an empty 200. Runs until it is killed.
 */
#define _GNU_SOURCE 1 /* strcasestr */

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "loopback.h"
#include "token_clock.h"

enum { MAX_STREAMS = 4096, MAX_EVENTS = 1024, MAX_REQUEST = 8192 };

static const char HEAD[] = "HTTP/1.1 200 OK\r\n"
                           "Content-Type: text/event-stream; charset=utf-8\r\n"
                           "Cache-Control: no-cache\r\n"
                           "Transfer-Encoding: chunked\r\n\r\n";
static const char EMPTY[] = "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n";
static const char LAST_CHUNKS[] = "e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n";

/* 222 bytes, as this server's own events have. */
static const char FRAME[] =
    "de\r\n"
    "data: {\"id\":\"chatcmpl-%032x\",\"object\":\"chat.completion.chunk\",\"created\":1763800000,"
    "\"model\":\"streaming\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"000000\"},"
    "\"logprobs\":null,\"finish_reason\":null}]}\n\n"
    "\r\n";

enum { FRAME_BYTES = 4 + 222 + 2 };

struct stream {
    int fd;
    size_t index;         /* of itself among those that run */
    uint64_t num_left;    /* tokens; 0 while it waits for a request */
    size_t num_sent;      /* bytes of the frame that are out, if not all of them are */
    char *token;          /* where its digits are in the frame */
    char frame[FRAME_BYTES + 1];
    size_t request_length;
    char request[MAX_REQUEST];
};

struct server {
    int listener;
    int timer;
    int epoll;
    uint64_t step_ns;
    struct stream *running[MAX_STREAMS];
    size_t num_running;
};

static void end_with(const char *what_failed)
{
    perror(what_failed);
    exit(2);
}

static void watch(const struct server *server, int fd, void *owner)
{
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = owner};
    if (epoll_ctl(server->epoll, EPOLL_CTL_ADD, fd, &interest) != 0)
        end_with("epoll_ctl");
}

/* --- streams -------------------------------------------------------------------------------- */

static void stop_running(struct server *server, struct stream *stream)
{
    struct stream *last = server->running[--server->num_running];
    server->running[stream->index] = last;
    last->index = stream->index;
    stream->num_left = 0;
}

static void close_stream(struct server *server, struct stream *stream)
{
    if (stream->num_left > 0)
        stop_running(server, stream);
    close(stream->fd);
    free(stream);
}

static void accept_streams(struct server *server)
{
    int fd;
    while ((fd = loopback_accept(server->listener)) >= 0) {
        struct stream *stream = calloc(1, sizeof *stream);
        if (stream == NULL)
            end_with("calloc");
        stream->fd = fd;
        snprintf(stream->frame, sizeof stream->frame, FRAME, (unsigned)fd);
        stream->token = strstr(stream->frame, "000000\"},\"logprobs");
        watch(server, fd, stream);
    }
}

/* Whether all of it is out; what is small and the first on an empty connection always is. */
static bool send_all(const struct stream *stream, const char *bytes, size_t num_bytes)
{
    return send(stream->fd, bytes, num_bytes, MSG_NOSIGNAL) == (ssize_t)num_bytes;
}

static void start_running(struct server *server, struct stream *stream, uint64_t num_tokens)
{
    if (server->num_running == MAX_STREAMS || !send_all(stream, HEAD, sizeof HEAD - 1)) {
        close_stream(server, stream);
        return;
    }
    stream->num_left = num_tokens;
    stream->index = server->num_running;
    server->running[server->num_running++] = stream;
}

/* How long the request is, with its body; 0 while that is not known. */
static size_t whole_length(const struct stream *stream)
{
    const char *end = strstr(stream->request, "\r\n\r\n");
    if (end == NULL)
        return 0;
    const char *length = strcasestr(stream->request, "content-length:");
    size_t body = length != NULL && length < end ? strtoul(length + 15, NULL, 10) : 0;
    return (size_t)(end - stream->request) + 4 + body;
}

static void answer(struct server *server, struct stream *stream)
{
    static const char MAX_TOKENS[] = "\"max_tokens\":";
    const char *max_tokens = strstr(stream->request, MAX_TOKENS);
    uint64_t num_tokens =
        max_tokens == NULL ? 0 : strtoull(max_tokens + sizeof MAX_TOKENS - 1, NULL, 10);
    stream->request_length = 0;
    if (num_tokens > 0)
        start_running(server, stream, num_tokens);
    else if (!send_all(stream, EMPTY, sizeof EMPTY - 1))
        close_stream(server, stream);
}

static void read_request(struct server *server, struct stream *stream)
{
    char *end = stream->request + stream->request_length;
    size_t room = sizeof stream->request - 1 - stream->request_length;
    ssize_t num_read = recv(stream->fd, end, room, 0);
    if (num_read < 0 && errno == EAGAIN)
        return;
    if (num_read <= 0 || stream->num_left > 0) { /* gone, or in a hurry: nobody does that here */
        close_stream(server, stream);
        return;
    }
    end[num_read] = '\0';
    stream->request_length += (size_t)num_read;
    size_t length = whole_length(stream);
    if (length > 0 && stream->request_length >= length)
        answer(server, stream);
}

/* --- steps ---------------------------------------------------------------------------------- */

/* Sends the next token, or the rest of the last one. False if the client is gone. */
static bool step_stream(struct stream *stream, const char *token)
{
    if (stream->num_sent == 0)
        memcpy(stream->token, token, TOKEN_DIGITS);
    ssize_t num_sent = send(stream->fd, stream->frame + stream->num_sent,
                            FRAME_BYTES - stream->num_sent, MSG_NOSIGNAL);
    if (num_sent < 0)
        return errno == EAGAIN;
    stream->num_sent += (size_t)num_sent;
    if (stream->num_sent == FRAME_BYTES) {
        stream->num_sent = 0;
        stream->num_left--;
    }
    return true;
}

static void step(struct server *server)
{
    char token[TOKEN_DIGITS];
    token_write(token, monotonic_ns() / TICK_NS % CLOCK_TICKS);
    /* From the last: one that leaves is replaced by one that has had its turn. */
    for (size_t i = server->num_running; i-- > 0;) {
        struct stream *stream = server->running[i];
        bool is_there = step_stream(stream, token);
        if (is_there && stream->num_left > 0)
            continue;
        server->running[i] = server->running[--server->num_running];
        server->running[i]->index = i;
        stream->num_left = 0;
        if (!is_there || !send_all(stream, LAST_CHUNKS, sizeof LAST_CHUNKS - 1))
            close_stream(server, stream);
    }
}

static uint64_t num_steps_due(const struct server *server)
{
    uint64_t num_steps = 0;
    if (server->step_ns == 0)
        return 1;
    if (read(server->timer, &num_steps, sizeof num_steps) < 0)
        return 0;
    uint64_t most = MAX_BEHIND_NS / server->step_ns;
    return num_steps > most ? most : num_steps;
}

/* --- the command ---------------------------------------------------------------------------- */

static int start_timer(uint64_t step_ns)
{
    struct timespec step = {(time_t)(step_ns / 1000000000), (long)(step_ns % 1000000000)};
    struct itimerspec times = {.it_interval = step, .it_value = step};
    int timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    if (timer < 0 || timerfd_settime(timer, 0, &times, NULL) != 0)
        end_with("timerfd");
    return timer;
}

static void serve(struct server *server)
{
    static struct epoll_event events[MAX_EVENTS];
    for (;;) {
        bool is_free = server->step_ns == 0 && server->num_running > 0;
        int num_events = epoll_wait(server->epoll, events, MAX_EVENTS, is_free ? 0 : -1);
        for (int i = 0; i < num_events; i++) {
            void *owner = events[i].data.ptr;
            if (owner == &server->listener)
                accept_streams(server);
            else if (owner != &server->timer)
                read_request(server, owner);
        }
        for (uint64_t num_steps = num_steps_due(server); num_steps > 0; num_steps--)
            step(server);
    }
}

int main(int argc, char **argv)
{
    static const struct option NAMES[] = {
        {"port", required_argument, NULL, 'p'}, {"step-us", required_argument, NULL, 's'}, {0}};
    static struct server server;
    int name, port = 0;
    while ((name = getopt_long(argc, argv, "", NAMES, NULL)) != -1) {
        if (name == '?')
            return 2;
        if (name == 'p')
            port = atoi(optarg);
        else
            server.step_ns = 1000 * strtoull(optarg, NULL, 10);
    }
    server.listener = loopback_listen(port);
    if (server.listener < 0)
        end_with("listen");
    server.epoll = epoll_create1(0);
    watch(&server, server.listener, &server.listener);
    if (server.step_ns > 0) {
        server.timer = start_timer(server.step_ns);
        watch(&server, server.timer, &server.timer);
    }
    serve(&server);
}
