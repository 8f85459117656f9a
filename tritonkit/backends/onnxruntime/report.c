#include "report.h"

#include <stdarg.h>
#include <stdio.h>

/* Longer words are cut. */
#define LONGEST 1024

TRITONSERVER_Error *failure(const char *format, ...) {
    char text[LONGEST];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    return TRITONSERVER_ErrorNew(ERROR_INTERNAL, text);
}

void say(int level, const char *format, ...) {
    char text[LONGEST];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    TRITONSERVER_Error *error = TRITONSERVER_LogMessage(level, __FILE__, __LINE__, text);
    if (error) {
        TRITONSERVER_ErrorDelete(error);
    }
}

void complain(const char *what, TRITONSERVER_Error *error) {
    if (error) {
        say(LOG_ERROR, "%s: %s", what, TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
    }
}
