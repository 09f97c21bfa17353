/* The streaming path: characters cut anywhere, a ring filled by another thread, a client that
 * reads a few bytes at a time through the smallest of buffers, one that goes away. */
#define _GNU_SOURCE 1

#include <fcntl.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include "check.h"
#include "streams/json_escape.h"
#include "streams/stream_drain.h"
#include "streams/utf8.h"

#define NUM_TOKENS 20000
#define NUM_STREAMS 3
#define PREFIX "data: \""
#define SUFFIX "\"\n\n"

static void check_bytes(const byte_buffer *buffer, const char *expected)
{
    CHECK(buffer->size == strlen(expected));
    CHECK(memcmp(buffer->bytes, expected, buffer->size) == 0);
}

/* ---- text ---- */

static void test_escapes(void)
{
    byte_buffer out = {0};
    CHECK(json_escape_append(&out, "a\"\\\n\x01\x1f\x7f", 7));
    check_bytes(&out, "a\\\"\\\\\\n\\u0001\\u001f\x7f");
    byte_buffer_free(&out);
}

static void test_valid_utf8(void)
{
    CHECK(utf8_is_valid("", 0));
    CHECK(utf8_is_valid("\xf4\x8f\xbf\xbf\xe2\x82\xac", 7));
    CHECK(!utf8_is_valid("\xe2\x82", 2));
    CHECK(!utf8_is_valid("\xc0\x80", 2));
    CHECK(!utf8_is_valid("\xed\xa0\x80", 3));
    CHECK(!utf8_is_valid("\xf4\x90\x80\x80", 4));
}

/* Token n of the table is the n-th string. */
static text_table *table_of(const char *const *texts, size_t num_texts, text_join join,
                            size_t num_leading_spaces)
{
    text_table *table = text_table_new(num_texts, join, num_leading_spaces);
    CHECK(table != NULL);
    for (size_t i = 0; i < num_texts; i++)
        CHECK(text_table_set(table, i, texts[i], strlen(texts[i]), strlen(texts[i]) == 1));
    return table;
}

static void check_decoded(const text_table *table, size_t num_tokens, const char *expected)
{
    text_decoder decoder;
    byte_buffer out = {0};
    text_decoder_init(&decoder, table);
    for (size_t i = 0; i < num_tokens; i++)
        CHECK(text_decoder_add(&decoder, (int32_t)i, &out));
    CHECK(text_decoder_add(&decoder, -1, &out));
    CHECK(text_decoder_add(&decoder, INT32_MAX, &out));
    CHECK(text_decoder_finish(&decoder, &out));
    check_bytes(&out, expected);
    byte_buffer_free(&out);
    text_decoder_free(&decoder);
}

static void test_characters_are_joined(void)
{
    static const char *const texts[] = {"\xe2\x82", "\xac", "\xe2", "x\"", "", "\xf0\x9f"};
    text_table *table = table_of(texts, 6, TEXT_JOIN_STREAM, 0);
    check_decoded(table, 6, "\xe2\x82\xac" UTF8_REPLACEMENT "x\\\"" UTF8_REPLACEMENT);
    text_table_free(table);
}

static void test_runs_are_joined(void)
{
    static const char *const texts[] = {"  a", "\xc3", "\xa9", " b", "\xc3", "z", " c"};
    text_table *table = table_of(texts, 7, TEXT_JOIN_RUN, 1);
    check_decoded(table, 7, " a\xc3\xa9 b" UTF8_REPLACEMENT UTF8_REPLACEMENT " c");
    text_table_free(table);
}

/* ---- a ring that another thread fills, to a socket that is read a little at a time ---- */

struct client {
    token_ring *ring;
    int fd;
    int letter;
    size_t num_events;
};

static void *produce(void *argument)
{
    struct client *client = argument;
    token_record record = {.token_id = client->letter};
    for (int i = 0; i < NUM_TOKENS; i++) {
        record.flags = i == NUM_TOKENS - 1 ? TOKEN_FLAG_LAST : 0;
        while (!token_ring_push(client->ring, &record))
            sched_yield();
    }
    token_ring_finish(client->ring, TOKEN_LENGTH);
    token_ring_release(client->ring);
    return NULL;
}

/* One byte of what is sent, without its framing; -1 at the end. */
static int next_content_byte(struct client *client, size_t *num_left)
{
    static const char hex[] = "0123456789abcdef";
    unsigned char byte;
    if (*num_left == 0) {
        char digit;
        while (read(client->fd, &digit, 1) == 1 && digit != '\r')
            *num_left = *num_left * 16 + (size_t)(strchr(hex, digit) - hex);
        if (*num_left == 0 || read(client->fd, &digit, 1) != 1)
            return -1;
    }
    CHECK(read(client->fd, &byte, 1) == 1);
    char end[2]; /* may come in two parts */
    if (--*num_left == 0)
        CHECK(read(client->fd, &end[0], 1) == 1 && read(client->fd, &end[1], 1) == 1 &&
              memcmp(end, "\r\n", 2) == 0);
    return byte;
}

static void *consume(void *argument)
{
    struct client *client = argument;
    const char event[] = {'d', 'a', 't', 'a', ':', ' ', '"', (char)client->letter, '"', '\n', '\n'};
    size_t num_left = 0;
    size_t position = 0;
    int byte;
    while ((byte = next_content_byte(client, &num_left)) >= 0) {
        CHECK(byte == event[position]);
        position = (position + 1) % sizeof event;
        client->num_events += position == 0;
    }
    CHECK(position == 0);
    return NULL;
}

struct server {
    event_stream events[NUM_STREAMS];
    token_times times[NUM_STREAMS];
    drained_stream drained[NUM_STREAMS];
    drained_stream *streams[NUM_STREAMS];
};

static void open_pair(int fds[2])
{
    int smallest = 1; /* the kernel makes a few kilobytes of it */
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(setsockopt(fds[0], SOL_SOCKET, SO_SNDBUF, &smallest, sizeof smallest) == 0);
}

static void open_stream(struct server *server, size_t number, const text_table *table,
                        token_ring *ring, int fd)
{
    event_stream *events = &server->events[number];
    event_stream_init(events, ring, table, &server->times[number]);
    CHECK(event_stream_set_frame(events, PREFIX, strlen(PREFIX), SUFFIX, strlen(SUFFIX)));
    server->drained[number].events = events;
    CHECK(chunked_output_open(&server->drained[number].output, fd));
    server->streams[number] = &server->drained[number];
}

static bool is_done(const drained_stream *stream)
{
    return (stream->attention & (DRAIN_ENDED | DRAIN_DEAD)) != 0 &&
           chunked_output_num_unsent(&stream->output) == 0;
}

/* Passes until no client's kernel takes more: nobody reads yet. */
static void fill_all(struct server *server, size_t num_streams)
{
    size_t num_blocked = 0;
    while (num_blocked < num_streams) {
        num_blocked = 0;
        stream_drain_pass(server->streams, num_streams, 1.0);
        for (size_t i = 0; i < num_streams; i++)
            num_blocked += (server->streams[i]->attention & DRAIN_BLOCKED) != 0;
        sched_yield();
    }
}

/* Passes until all have ended; a blocked one is simply tried again. */
static void drain_all(struct server *server, size_t num_streams)
{
    size_t num_done = 0;
    while (num_done < num_streams) {
        num_done = 0;
        stream_drain_pass(server->streams, num_streams, 1.0);
        for (size_t i = 0; i < num_streams; i++) {
            drained_stream *stream = server->streams[i];
            if ((stream->attention & DRAIN_BLOCKED) != 0)
                chunked_output_resume(&stream->output);
            num_done += is_done(stream);
        }
        sched_yield();
    }
}

static text_table *letters(void)
{
    text_table *table = text_table_new(128, TEXT_JOIN_STREAM, 0);
    CHECK(table != NULL);
    for (size_t letter = 'a'; letter <= 'z'; letter++)
        CHECK(text_table_set(table, letter, &(char){(char)letter}, 1, false));
    return table;
}

static void test_every_event_arrives_through_the_smallest_buffers(void)
{
    struct server server = {0};
    struct client clients[NUM_STREAMS];
    pthread_t threads[NUM_STREAMS][2];
    text_table *table = letters();
    for (size_t i = 0; i < NUM_STREAMS; i++) {
        int fds[2];
        open_pair(fds);
        token_ring *ring = token_ring_new(8);
        open_stream(&server, i, table, ring, fds[0]);
        close(fds[0]);
        clients[i] = (struct client){.ring = ring, .fd = fds[1], .letter = 'a' + (int)i};
        threads[i][0] = start_thread(produce, &clients[i]);
    }
    fill_all(&server, NUM_STREAMS);
    for (size_t i = 0; i < NUM_STREAMS; i++)
        threads[i][1] = start_thread(consume, &clients[i]);
    drain_all(&server, NUM_STREAMS);
    for (size_t i = 0; i < NUM_STREAMS; i++) {
        chunked_output_close(&server.drained[i].output);
        join_thread(threads[i][0]);
        join_thread(threads[i][1]);
        CHECK(clients[i].num_events == NUM_TOKENS);
        CHECK(server.times[i].num_tokens == NUM_TOKENS);
        CHECK(server.events[i].end == TOKEN_LENGTH);
        event_stream_free(&server.events[i]);
        close(clients[i].fd);
    }
    text_table_free(table);
}

/* ---- one output ---- */

static void test_a_stalled_client_is_given_no_more_than_the_bound(void)
{
    static char bytes[CHUNKED_OUTPUT_MAX_QUEUED_BYTES * 2];
    chunked_output output;
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(chunked_output_open(&output, fds[0]));
    CHECK(chunked_output_write(&output, bytes, sizeof bytes));
    CHECK(chunked_output_flush(&output) == CHUNKED_OUTPUT_BLOCKED);
    CHECK(output.num_sent <= CHUNKED_OUTPUT_MAX_QUEUED_BYTES);
    close(fds[0]);
    chunked_output_close(&output);
    CHECK(fcntl(fds[1], F_GETFD) >= 0);
    close(fds[1]);
}

static void test_closing_with_bytes_unsent_ends_the_connection(void)
{
    static char bytes[CHUNKED_OUTPUT_MAX_QUEUED_BYTES * 2];
    chunked_output output;
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(chunked_output_open(&output, fds[0]));
    CHECK(chunked_output_write(&output, bytes, sizeof bytes));
    chunked_output_flush(&output);
    chunked_output_close(&output);
    chunked_output_close(&output);
    CHECK(send(fds[0], "0\r\n\r\n", 5, MSG_NOSIGNAL) < 0);
    close(fds[0]);
    close(fds[1]);
}

static void test_nothing_can_be_sent_after_an_abort(void)
{
    chunked_output output;
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(chunked_output_open(&output, fds[0]));
    CHECK(chunked_output_write(&output, "x", 1));
    CHECK(chunked_output_flush(&output) == CHUNKED_OUTPUT_READY);
    chunked_output_abort(&output);
    CHECK(send(fds[0], "0\r\n\r\n", 5, MSG_NOSIGNAL) < 0);
    chunked_output_close(&output);
    close(fds[0]);
    close(fds[1]);
}

/* Reads until the connection ends; keeps the last bytes. Returns how many there were. */
static size_t read_to_end(int fd, char *last, size_t num_last)
{
    char piece[4096];
    size_t num_read = 0;
    ssize_t num_bytes;
    while ((num_bytes = recv(fd, piece, sizeof piece, 0)) > 0)
        for (ssize_t i = 0; i < num_bytes; i++, num_read++) {
            memmove(last, last + 1, num_last - 1);
            last[num_last - 1] = piece[i];
        }
    CHECK(num_bytes == 0);
    return num_read;
}

static void test_an_answer_is_concluded_past_the_bound(void)
{
    static char bytes[CHUNKED_OUTPUT_MAX_QUEUED_BYTES * 2];
    chunked_output output;
    char last[9];
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(chunked_output_open(&output, fds[0]));
    CHECK(chunked_output_write(&output, bytes, sizeof bytes));
    CHECK(chunked_output_flush(&output) == CHUNKED_OUTPUT_BLOCKED);
    CHECK(chunked_output_write(&output, "end", 3));
    CHECK(chunked_output_conclude(&output));
    CHECK(output.state == CHUNKED_OUTPUT_DEAD);
    CHECK(output.num_lost == 0);
    CHECK(read_to_end(fds[1], last, sizeof last) == output.num_sent);
    CHECK(memcmp(last, "nd\r\n0\r\n\r\n", sizeof last) == 0);
    chunked_output_close(&output);
    close(fds[0]);
    close(fds[1]);
}

static void test_what_the_kernel_does_not_take_cuts_the_answer_off(void)
{
    static char bytes[CHUNKED_OUTPUT_MAX_QUEUED_BYTES * 2];
    chunked_output output;
    char last[1];
    int fds[2];
    open_pair(fds);
    CHECK(chunked_output_open(&output, fds[0]));
    CHECK(chunked_output_write(&output, bytes, sizeof bytes));
    CHECK(!chunked_output_conclude(&output));
    CHECK(output.num_lost > 0);
    CHECK(send(fds[0], "0\r\n\r\n", 5, MSG_NOSIGNAL) < 0);
    CHECK(read_to_end(fds[1], last, sizeof last) == output.num_sent);
    CHECK(!chunked_output_conclude(&output));
    chunked_output_close(&output);
    close(fds[0]);
    close(fds[1]);
}

static void test_a_client_that_has_gone_is_noticed_and_costs_no_more(void)
{
    chunked_output output;
    int fds[2];
    CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, fds) == 0);
    CHECK(chunked_output_open(&output, fds[0]));
    close(fds[1]);
    CHECK(chunked_output_write(&output, "x", 1));
    CHECK(chunked_output_flush(&output) == CHUNKED_OUTPUT_DEAD);
    CHECK(chunked_output_write(&output, "x", 1));
    CHECK(chunked_output_num_unsent(&output) == 0);
    CHECK(chunked_output_resume(&output) == CHUNKED_OUTPUT_DEAD);
    chunked_output_close(&output);
    close(fds[0]);
}

int main(void)
{
    test_escapes();
    test_valid_utf8();
    test_characters_are_joined();
    test_runs_are_joined();
    test_every_event_arrives_through_the_smallest_buffers();
    test_a_stalled_client_is_given_no_more_than_the_bound();
    test_closing_with_bytes_unsent_ends_the_connection();
    test_nothing_can_be_sent_after_an_abort();
    test_an_answer_is_concluded_past_the_bound();
    test_what_the_kernel_does_not_take_cuts_the_answer_off();
    test_a_client_that_has_gone_is_noticed_and_costs_no_more();
    puts("event_streams: ok");
    return 0;
}
