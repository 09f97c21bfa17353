/* load: many connections that ask a server for answers, and what they see of it.
 *
 *     load --port P --streams K --body JSON [--warm-up-body JSON] [--settle-s S] [--window-s W]
 *          [--pids N,N] [--whole]
 *
 * One thread and one epoll, so that it takes little of its core. Each connection posts the body to
 * /v1/chat/completions, and the same again when an answer is over:
 *
 *     warming up  until each connection has had a whole answer to the other body, if there is one
 *     opening     until each connection has had its first token
 *     settling    for S seconds, in which nothing is counted
 *     measuring   for W seconds: tokens, bytes, lateness, answers, and the processor time that the
 *                 processes of --pids and this one take meanwhile
 *
 * Each token says when it was made (token_clock.h). Lateness is from then to the return of the read
 * that brought its last byte. Time to first token is from the sending of a request, and counts for
 * all requests after the warm-up. With --whole, answers are not streams, and have no tokens.
 *
 * Prints one JSON object. Its "failure" is null, or what went wrong first: then the run has ended
 * there, and the figures mean nothing. The exit status is 0 in both cases, 2 without any figures.
 */
#define _GNU_SOURCE 1 /* memmem */

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "answer.h"
#include "json_output.h"
#include "load_options.h"
#include "loopback.h"
#include "samples.h"
#include "token_clock.h"

enum { MAX_EVENTS = 1024, MAX_REQUEST = 4096, READ_BYTES = 256 * 1024 };

/* A server that has not given each stream a token by then will not. */
static const double BEGIN_TIMEOUT_S = 30;

struct connection {
    struct load *load;
    int fd;
    struct answer answer;
    uint64_t sent_ns;
    uint64_t read_ns;      /* when the bytes that are read now arrived */
    uint64_t last_tick;    /* of CLOCK_MONOTONIC, when the last token was made */
    bool has_token;        /* this answer */
    bool is_done;          /* this answer has said [DONE] */
    bool is_open;          /* has had the first token of this phase, or a whole answer */
};

/* What is counted from the beginning; two of these make a window. */
struct counts {
    uint64_t at_ns;
    uint64_t num_tokens;
    uint64_t num_events;
    uint64_t num_event_bytes;
    uint64_t num_answers;
    double server_cpu_s;
    double client_cpu_s;
};

enum phase { WARMING_UP, OPENING, SETTLING, MEASURING, OVER };

struct request {
    char text[MAX_REQUEST];
    size_t length;
};

struct load {
    struct load_options options;
    struct request warm_up;
    struct request request;
    struct connection *connections;
    int epoll;
    enum phase phase;
    uint64_t phase_end_ns;
    int num_open;
    struct counts now;
    struct counts start;
    struct samples first_token;
    struct samples lateness;
    char failure[256]; /* empty if there was none */
};

static void end_with(const char *what_failed)
{
    perror(what_failed);
    exit(2);
}

/* Ends the run; only the first reason is kept. */
static void fail(struct load *load, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    if (load->failure[0] == '\0')
        vsnprintf(load->failure, sizeof load->failure, format, arguments);
    va_end(arguments);
    load->phase = OVER;
}

/* --- clocks --------------------------------------------------------------------------------- */

static double clock_s(clockid_t clock)
{
    struct timespec time;
    if (clock_gettime(clock, &time) != 0)
        end_with("a process of the server has ended");
    return (double)time.tv_sec + 1e-9 * (double)time.tv_nsec;
}

static struct counts counts_now(struct load *load)
{
    struct counts counts = load->now;
    counts.server_cpu_s = 0;
    for (int i = 0; i < load->options.num_server_clocks; i++)
        counts.server_cpu_s += clock_s(load->options.server_clocks[i]);
    counts.client_cpu_s = clock_s(CLOCK_PROCESS_CPUTIME_ID);
    counts.at_ns = monotonic_ns();
    return counts;
}

/* The instant at which a token was made, in ticks that do not come round: for a stream's first token
 * the latest that its text can mean, then the first one after the token before. */
static uint64_t whole_ticks(const struct connection *connection, uint64_t text_ticks)
{
    uint64_t reference = connection->last_tick;
    if (connection->has_token)
        return reference + (text_ticks + CLOCK_TICKS - reference % CLOCK_TICKS) % CLOCK_TICKS;
    reference = connection->read_ns / TICK_NS;
    return reference - (reference % CLOCK_TICKS + CLOCK_TICKS - text_ticks) % CLOCK_TICKS;
}

/* --- events --------------------------------------------------------------------------------- */

static void take_token(struct connection *connection, uint64_t text_ticks)
{
    struct load *load = connection->load;
    connection->last_tick = whole_ticks(connection, text_ticks);
    if (!connection->has_token) {
        connection->has_token = true;
        if (load->phase != WARMING_UP)
            samples_add(&load->first_token, connection->read_ns - connection->sent_ns);
    }
    load->now.num_tokens++;
    if (load->phase == MEASURING) {
        uint64_t made_ns = connection->last_tick * TICK_NS;
        bool is_late = connection->read_ns > made_ns;
        samples_add(&load->lateness, is_late ? connection->read_ns - made_ns : 0);
    }
}

/* The text of an event's delta, or NULL if it has none. */
static const char *find_content(const char *line, const char *end)
{
    static const char NAME[] = "\"content\":";
    const char *text = memmem(line, (size_t)(end - line), NAME, sizeof NAME - 1);
    if (text == NULL)
        return NULL;
    text += sizeof NAME - 1;
    text += text < end && *text == ' ';
    return text < end && *text == '"' ? text + 1 : NULL;
}

static void take_line(void *context, const char *line, size_t length)
{
    static const char DATA[] = "data:";
    struct connection *connection = context;
    struct load *load = connection->load;
    uint64_t ticks;
    load->now.num_event_bytes += length + 1;
    if (length < sizeof DATA - 1 || memcmp(line, DATA, sizeof DATA - 1) != 0)
        return;
    load->now.num_events++;
    const char *end = line + length;
    const char *text = find_content(line, end);
    if (text == NULL) {
        connection->is_done |= memmem(line, length, "[DONE]", strlen("[DONE]")) != NULL;
        if (memmem(line, length, "\"error\"", strlen("\"error\"")) != NULL)
            fail(load, "error event: %.*s", (int)length, line);
        return;
    }
    for (; token_parse(text, end, &ticks); text += TOKEN_DIGITS)
        take_token(connection, ticks);
}

/* --- connections ---------------------------------------------------------------------------- */

static void send_request(struct connection *connection)
{
    struct load *load = connection->load;
    const struct request *request = load->phase == WARMING_UP ? &load->warm_up : &load->request;
    answer_begin(&connection->answer);
    connection->has_token = false;
    connection->is_done = false;
    connection->sent_ns = monotonic_ns();
    ssize_t num_sent = send(connection->fd, request->text, request->length, MSG_NOSIGNAL);
    if (num_sent != (ssize_t)request->length)
        fail(load, "a request could not be sent: %s", num_sent < 0 ? strerror(errno) : "in part");
}

static void open_connection(struct load *load, struct connection *connection)
{
    struct epoll_event interest = {.events = EPOLLIN, .data.ptr = connection};
    *connection = (struct connection){.load = load, .fd = loopback_connect(load->options.port)};
    if (connection->fd < 0)
        end_with("connect");
    if (epoll_ctl(load->epoll, EPOLL_CTL_ADD, connection->fd, &interest) != 0)
        end_with("epoll_ctl");
}

static void end_answer(struct connection *connection)
{
    struct load *load = connection->load;
    if (!load->options.whole && !connection->is_done) {
        fail(load, "a stream ended without [DONE]");
        return;
    }
    load->now.num_answers++;
    if (load->phase != WARMING_UP)
        send_request(connection);
}

static void note_open(struct connection *connection)
{
    struct load *load = connection->load;
    bool is_complete = connection->answer.part == ANSWER_COMPLETE;
    if (connection->is_open || !(is_complete || (connection->has_token && load->phase == OPENING)))
        return;
    connection->is_open = true;
    load->num_open++;
}

static void read_ready(struct connection *connection)
{
    static char bytes[READ_BYTES];
    struct load *load = connection->load;
    struct answer *answer = &connection->answer;
    ssize_t num_read = recv(connection->fd, bytes, sizeof bytes, 0);
    connection->read_ns = monotonic_ns();
    if (num_read < 0 && errno == EAGAIN)
        return;
    if (num_read <= 0) {
        fail(load, "the server closed a connection: %s", num_read < 0 ? strerror(errno) : "end");
        return;
    }
    answer_feed(answer, bytes, (size_t)num_read, take_line, connection);
    note_open(connection);
    if (answer->part == ANSWER_BROKEN)
        fail(load, "an answer is not HTTP/1.1, chunked or of known length");
    else if (answer->status != 200 && answer->status != 0 && answer->part == ANSWER_COMPLETE)
        fail(load, "HTTP %d: %.*s", answer->status, (int)answer->body.length, answer->body.text);
    else if (answer->part == ANSWER_COMPLETE)
        end_answer(connection);
}

/* --- phases --------------------------------------------------------------------------------- */

static void enter(struct load *load, enum phase phase, double duration_s)
{
    load->phase = phase;
    load->phase_end_ns = monotonic_ns() + (uint64_t)(1e9 * duration_s);
}

/* Sends a request on each connection. */
static void begin(struct load *load, enum phase phase)
{
    enter(load, phase, BEGIN_TIMEOUT_S);
    load->num_open = 0;
    for (int i = 0; i < load->options.num_streams; i++) {
        load->connections[i].is_open = false;
        send_request(&load->connections[i]);
    }
}

static void advance(struct load *load)
{
    bool is_over = monotonic_ns() >= load->phase_end_ns;
    bool are_open = load->num_open == load->options.num_streams;
    if (load->phase == WARMING_UP && are_open) {
        begin(load, OPENING);
    } else if (load->phase == OPENING && are_open) {
        enter(load, SETTLING, load->options.settle_s);
    } else if (load->phase <= OPENING && is_over) {
        fail(load, "only %d of %d streams began", load->num_open, load->options.num_streams);
    } else if (load->phase == SETTLING && is_over) {
        load->start = counts_now(load);
        enter(load, MEASURING, load->options.window_s);
    } else if (load->phase == MEASURING && is_over) {
        load->now = counts_now(load);
        load->phase = OVER;
    }
}

static int wait_ms(const struct load *load)
{
    uint64_t now_ns = monotonic_ns();
    return load->phase_end_ns <= now_ns ? 0 : 1 + (int)((load->phase_end_ns - now_ns) / 1000000);
}

static void run(struct load *load)
{
    static struct epoll_event events[MAX_EVENTS];
    load->epoll = epoll_create1(0);
    load->connections = calloc((size_t)load->options.num_streams, sizeof *load->connections);
    if (load->epoll < 0 || load->connections == NULL)
        end_with("epoll_create1 or calloc");
    for (int i = 0; i < load->options.num_streams; i++)
        open_connection(load, &load->connections[i]);
    begin(load, load->warm_up.length > 0 ? WARMING_UP : OPENING);
    while (load->phase != OVER) {
        int num_events = epoll_wait(load->epoll, events, MAX_EVENTS, wait_ms(load));
        for (int i = 0; i < num_events && load->phase != OVER; i++)
            read_ready(events[i].data.ptr);
        advance(load);
    }
}

/* --- the report ----------------------------------------------------------------------------- */

static void print_percentiles(const char *name, struct samples *samples)
{
    static const double PERCENTS[] = {50, 99};
    samples_sort(samples);
    for (size_t i = 0; i < sizeof PERCENTS / sizeof *PERCENTS; i++) {
        char full_name[64];
        snprintf(full_name, sizeof full_name, "%s_p%.0f_us", name, PERCENTS[i]);
        json_number(full_name, samples_percentile_us(samples, PERCENTS[i]));
        printf(", ");
    }
}

static void print_difference(const char *name, double start, double end)
{
    json_number(name, end - start);
    printf(", ");
}

static void report(struct load *load)
{
    const struct counts *start = &load->start, *end = &load->now;
    printf("{");
    print_difference("window_s", 1e-9 * (double)start->at_ns, 1e-9 * (double)end->at_ns);
    print_difference("num_tokens", (double)start->num_tokens, (double)end->num_tokens);
    print_difference("num_events", (double)start->num_events, (double)end->num_events);
    print_difference("num_event_bytes", (double)start->num_event_bytes,
                     (double)end->num_event_bytes);
    print_difference("num_answers", (double)start->num_answers, (double)end->num_answers);
    print_difference("server_cpu_s", start->server_cpu_s, end->server_cpu_s);
    print_difference("client_cpu_s", start->client_cpu_s, end->client_cpu_s);
    print_percentiles("first_token", &load->first_token);
    print_percentiles("lateness", &load->lateness);
    json_string("failure", load->failure[0] == '\0' ? NULL : load->failure);
    printf("}\n");
}

/* --- the command ---------------------------------------------------------------------------- */

static void format_request(struct request *request, int port, const char *body)
{
    int length = snprintf(request->text, sizeof request->text,
                          "POST /v1/chat/completions HTTP/1.1\r\n"
                          "Host: 127.0.0.1:%d\r\n"
                          "Content-Type: application/json\r\n"
                          "Content-Length: %zu\r\n\r\n%s",
                          port, strlen(body), body);
    if (length >= (int)sizeof request->text) {
        errno = EMSGSIZE;
        end_with("a body");
    }
    request->length = (size_t)length;
}

int main(int argc, char **argv)
{
    static struct load load;
    load.options = load_options_parse(argc, argv);
    format_request(&load.request, load.options.port, load.options.body);
    if (load.options.warm_up_body != NULL)
        format_request(&load.warm_up, load.options.port, load.options.warm_up_body);
    run(&load);
    report(&load);
    samples_free(&load.first_token);
    samples_free(&load.lateness);
    free(load.connections);
    return 0;
}
