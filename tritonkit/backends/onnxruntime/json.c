#include "json.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Deeper than any configuration; it bounds the stack. */
#define DEEPEST 64

typedef struct {
    const char *at;
    const char *end;
} Reader;

static Json *read_value(Reader *reader, int depth);

static void skip_space(Reader *reader) {
    while (reader->at < reader->end && strchr(" \t\r\n", *reader->at) && *reader->at) {
        reader->at++;
    }
}

static bool take(Reader *reader, char wanted) {
    skip_space(reader);
    if (reader->at == reader->end || *reader->at != wanted) {
        return false;
    }
    reader->at++;
    return true;
}

static bool take_word(Reader *reader, const char *word) {
    size_t size = strlen(word);
    if ((size_t)(reader->end - reader->at) < size || memcmp(reader->at, word, size) != 0) {
        return false;
    }
    reader->at += size;
    return true;
}

static bool read_code(Reader *reader, unsigned *code) {
    *code = 0;
    for (int digit = 0; digit < 4; digit++) {
        if (reader->at == reader->end) {
            return false;
        }
        char letter = *reader->at++;
        const char *digits = "0123456789abcdef0123456789ABCDEF";
        const char *found = letter ? strchr(digits, letter) : NULL;
        if (!found) {
            return false;
        }
        *code = *code * 16 + (unsigned)(found - digits) % 16;
    }
    return true;
}

/* Writes one character as UTF-8; where it ends. */
static char *put_utf8(char *to, unsigned code) {
    if (code < 0x80) {
        *to++ = (char)code;
    } else if (code < 0x800) {
        *to++ = (char)(0xC0 | code >> 6);
        *to++ = (char)(0x80 | (code & 0x3F));
    } else if (code < 0x10000) {
        *to++ = (char)(0xE0 | code >> 12);
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    } else {
        *to++ = (char)(0xF0 | code >> 18);
        *to++ = (char)(0x80 | (code >> 12 & 0x3F));
        *to++ = (char)(0x80 | (code >> 6 & 0x3F));
        *to++ = (char)(0x80 | (code & 0x3F));
    }
    return to;
}

static bool read_escaped(Reader *reader, char **to) {
    if (reader->at == reader->end) {
        return false;
    }
    char letter = *reader->at++;
    const char *plain = "\"\\/bfnrt", *meant = "\"\\/\b\f\n\r\t";
    const char *found = letter ? strchr(plain, letter) : NULL;
    if (found) {
        *(*to)++ = meant[found - plain];
        return true;
    }
    unsigned code, low;
    if (letter != 'u' || !read_code(reader, &code)) {
        return false;
    }
    if (code >= 0xD800 && code < 0xDC00) {
        if (!take_word(reader, "\\u") || !read_code(reader, &low) || low < 0xDC00 || low > 0xDFFF) {
            return false;
        }
        code = 0x10000 + ((code - 0xD800) << 10) + (low - 0xDC00);
    }
    /* A name with a NUL inside is none that C can hold. */
    if (code == 0) {
        return false;
    }
    *to = put_utf8(*to, code);
    return true;
}

/* A string whose opening quote has been taken; NULL where it is none. */
static char *read_string(Reader *reader) {
    const char *close = reader->at;
    while (close < reader->end && *close != '"') {
        close += *close == '\\' ? 2 : 1;
    }
    if (close >= reader->end) {
        return NULL;
    }
    /* An escape is never shorter than what it stands for. */
    char *text = malloc((size_t)(close - reader->at) + 1);
    char *to = text;
    while (text && reader->at < close) {
        if (*reader->at != '\\') {
            *to++ = *reader->at++;
            continue;
        }
        reader->at++;
        if (!read_escaped(reader, &to)) {
            free(text);
            return NULL;
        }
    }
    if (text) {
        *to = '\0';
        reader->at = close + 1;
    }
    return text;
}

static bool read_number(Reader *reader, Json *value) {
    const char *from = reader->at;
    while (reader->at < reader->end && *reader->at && strchr("+-0123456789.eE", *reader->at)) {
        reader->at++;
    }
    size_t size = (size_t)(reader->at - from);
    value->text = size ? malloc(size + 1) : NULL;
    if (!value->text) {
        return false;
    }
    memcpy(value->text, from, size);
    value->text[size] = '\0';
    return true;
}

static bool read_members(Reader *reader, Json *value, int depth) {
    char close = value->kind == JSON_OBJECT ? '}' : ']';
    Json **last = &value->first;
    if (take(reader, close)) {
        return true;
    }
    do {
        char *key = NULL;
        if (value->kind == JSON_OBJECT) {
            if (!take(reader, '"') || !(key = read_string(reader))) {
                return false;
            }
            if (!take(reader, ':')) {
                free(key);
                return false;
            }
        }
        if (!(*last = read_value(reader, depth + 1))) {
            free(key);
            return false;
        }
        (*last)->key = key;
        last = &(*last)->next;
    } while (take(reader, ','));
    return take(reader, close);
}

static bool fill(Reader *reader, Json *value, int depth) {
    skip_space(reader);
    if (reader->at == reader->end) {
        return false;
    }
    switch (*reader->at) {
    case '{':
    case '[':
        value->kind = *reader->at++ == '{' ? JSON_OBJECT : JSON_ARRAY;
        return read_members(reader, value, depth);
    case '"':
        reader->at++;
        value->kind = JSON_STRING;
        return (value->text = read_string(reader)) != NULL;
    case 'n':
        value->kind = JSON_NULL;
        return take_word(reader, "null");
    case 't':
        value->kind = JSON_TRUE;
        return take_word(reader, "true");
    case 'f':
        value->kind = JSON_FALSE;
        return take_word(reader, "false");
    default:
        value->kind = JSON_NUMBER;
        return read_number(reader, value);
    }
}

static Json *read_value(Reader *reader, int depth) {
    Json *value = depth < DEEPEST ? calloc(1, sizeof *value) : NULL;
    if (value && !fill(reader, value, depth)) {
        json_free(value);
        return NULL;
    }
    return value;
}

Json *json_read(const char *text, size_t size) {
    Reader reader = {text, text + size};
    Json *value = read_value(&reader, 0);
    skip_space(&reader);
    if (value && reader.at != reader.end) {
        json_free(value);
        return NULL;
    }
    return value;
}

void json_free(Json *value) {
    while (value) {
        Json *next = value->next;
        json_free(value->first);
        free(value->key);
        free(value->text);
        free(value);
        value = next;
    }
}

const Json *json_member(const Json *object, const char *key) {
    const Json *member = object && object->kind == JSON_OBJECT ? object->first : NULL;
    while (member && strcmp(member->key, key) != 0) {
        member = member->next;
    }
    return member;
}

const char *json_text(const Json *object, const char *key, const char *otherwise) {
    const Json *member = json_member(object, key);
    return member && member->text ? member->text : otherwise;
}

bool json_whole(const Json *value, long long *number) {
    if (!value || !value->text || !*value->text) {
        return false;
    }
    char *end;
    errno = 0;
    *number = strtoll(value->text, &end, 10);
    return errno == 0 && *end == '\0';
}

bool json_says_nothing(const Json *value) {
    long long number;
    switch (value->kind) {
    case JSON_TRUE:
        return false;
    case JSON_STRING:
        return *value->text == '\0';
    case JSON_NUMBER:
        return json_whole(value, &number) && number == 0;
    case JSON_ARRAY:
    case JSON_OBJECT:
        for (const Json *part = value->first; part; part = part->next) {
            if (!json_says_nothing(part)) {
                return false;
            }
        }
        return value->kind == JSON_OBJECT || !value->first;
    default:
        return true;
    }
}
