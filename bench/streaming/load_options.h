/* load_options: what the load client is asked for; load.c says what it means. */
#ifndef LOAD_OPTIONS_H
#define LOAD_OPTIONS_H

#include <stdbool.h>
#include <time.h>

#define MAX_SERVER_PROCESSES 64

struct load_options {
    int port;
    int num_streams;
    const char *body;
    const char *warm_up_body; /* NULL for no warm-up */
    double settle_s;
    double window_s;
    clockid_t server_clocks[MAX_SERVER_PROCESSES];
    int num_server_clocks;
    bool whole;
};

/* Ends the program with a sentence if they make no sense. */
struct load_options load_options_parse(int argc, char **argv);

#endif
