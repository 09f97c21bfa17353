/* json_output: members of a JSON object, on the standard output. */
#ifndef JSON_OUTPUT_H
#define JSON_OUTPUT_H

/* Prints "name": value; null for NAN, which JSON does not have. */
void json_number(const char *name, double value);

/* Prints "name": "text", with control characters as spaces; null for NULL. */
void json_string(const char *name, const char *text);

#endif
