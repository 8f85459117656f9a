/* Why something is not done, in words. */
#ifndef REASON_H
#define REASON_H

typedef struct {
    char text[256];
} Reason;

void reason_set(Reason *why, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
