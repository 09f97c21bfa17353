/* Feeds the standard input to an answer in pieces of the sizes that the arguments say, the rest at
 * once, and prints the lines of its body, its status and how it ended. */
#include <stdio.h>
#include <stdlib.h>

#include "answer.h"

static void print_line(void *context, const char *line, size_t length)
{
    (void)context;
    printf("line %.*s\n", (int)length, line);
}

int main(int argc, char **argv)
{
    static char bytes[1 << 16];
    static struct answer answer;
    size_t num_bytes = fread(bytes, 1, sizeof bytes, stdin), start = 0;
    answer_begin(&answer);
    for (int i = 1; i <= argc; i++) {
        size_t left = num_bytes - start;
        size_t size = i == argc ? left : strtoul(argv[i], NULL, 10);
        size = size < left ? size : left;
        /* A copy of just that size, so that reading past it is seen. */
        char *piece = malloc(size + 1);
        if (piece == NULL)
            return 1;
        for (size_t k = 0; k < size; k++)
            piece[k] = bytes[start + k];
        piece = realloc(piece, size == 0 ? 1 : size);
        answer_feed(&answer, piece, size, print_line, NULL);
        free(piece);
        start += size;
    }
    const char *end = answer.part == ANSWER_COMPLETE ? "complete"
                      : answer.part == ANSWER_BROKEN ? "broken"
                                                     : "unfinished";
    printf("%d %s\n", answer.status, end);
    return 0;
}
