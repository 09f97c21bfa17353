#define _GNU_SOURCE 1 /* getopt_long beside C11 */

#include "load_options.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void end_with_usage(const char *what_is_wrong)
{
    fprintf(stderr, "%s\n", what_is_wrong);
    exit(2);
}

static void parse_pids(struct load_options *options, char *text)
{
    for (char *pid = strtok(text, ","); pid != NULL; pid = strtok(NULL, ",")) {
        if (options->num_server_clocks == MAX_SERVER_PROCESSES)
            end_with_usage("--pids are too many");
        clockid_t *clock = &options->server_clocks[options->num_server_clocks++];
        if (clock_getcpuclockid(atoi(pid), clock) != 0)
            end_with_usage("one of --pids is not a process");
    }
}

struct load_options load_options_parse(int argc, char **argv)
{
    static const struct option NAMES[] = {
        {"port", required_argument, NULL, 'p'},     {"streams", required_argument, NULL, 'k'},
        {"body", required_argument, NULL, 'b'},     {"settle-s", required_argument, NULL, 's'},
        {"window-s", required_argument, NULL, 'w'}, {"pids", required_argument, NULL, 'n'},
        {"whole", no_argument, NULL, 'o'},          {"warm-up-body", required_argument, NULL, 'u'},
        {0},
    };
    struct load_options options = {.settle_s = 0.5, .window_s = 5};
    int name;
    while ((name = getopt_long(argc, argv, "", NAMES, NULL)) != -1) {
        switch (name) {
        case 'p': options.port = atoi(optarg); break;
        case 'k': options.num_streams = atoi(optarg); break;
        case 'b': options.body = optarg; break;
        case 'u': options.warm_up_body = optarg; break;
        case 's': options.settle_s = atof(optarg); break;
        case 'w': options.window_s = atof(optarg); break;
        case 'n': parse_pids(&options, optarg); break;
        case 'o': options.whole = true; break;
        default: exit(2);
        }
    }
    if (options.port == 0 || options.num_streams < 1 || options.body == NULL)
        end_with_usage("--port, --streams and --body are needed");
    return options;
}
