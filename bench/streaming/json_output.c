#include "json_output.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>

void json_number(const char *name, double value)
{
    if (isnan(value))
        printf("\"%s\": null", name);
    else
        printf("\"%s\": %.9g", name, value);
}

void json_string(const char *name, const char *text)
{
    printf("\"%s\": ", name);
    if (text == NULL) {
        printf("null");
        return;
    }
    putchar('"');
    for (; *text != '\0'; text++) {
        if (*text == '"' || *text == '\\')
            putchar('\\');
        putchar((unsigned char)*text < ' ' ? ' ' : *text);
    }
    putchar('"');
}
