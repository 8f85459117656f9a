/* A reader of JSON, for the model configuration that Triton gives a backend. */
#ifndef JSON_H
#define JSON_H

#include <stdbool.h>
#include <stddef.h>

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } JsonKind;

/* One value. A member of an object has a key; a number keeps its text; what an array or object holds is a chain. */
typedef struct Json {
    JsonKind kind;
    char *key;
    char *text;
    struct Json *first;
    struct Json *next;
} Json;

/* The value that a text is; NULL where it is none, or where memory ran out. Free it with json_free. */
Json *json_read(const char *text, size_t size);
void json_free(Json *value);

/* The member of an object; NULL where there is none, or where it is no object. */
const Json *json_member(const Json *object, const char *key);
/* The text of a string or number that is a member; else the default. */
const char *json_text(const Json *object, const char *key, const char *otherwise);
/* The whole number that a value is, as a number or in a string; false where it is none. */
bool json_whole(const Json *value, long long *number);
/* Whether a value says nothing: null, false, 0, "", an empty list, or an object of nothing but such values. */
bool json_says_nothing(const Json *value);

#endif
