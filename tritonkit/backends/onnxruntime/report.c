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

void report_line(const char *file, int line, int level, const char *format, ...) {
    char text[LONGEST];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    TRITONSERVER_Error *error = TRITONSERVER_LogMessage(level, file, line, text);
    if (error) {
        TRITONSERVER_ErrorDelete(error);
    }
}

void report_error(const char *file, int line, const char *what, TRITONSERVER_Error *error) {
    if (error) {
        report_line(file, line, LOG_ERROR, "%s: %s", what, TRITONSERVER_ErrorMessage(error));
        TRITONSERVER_ErrorDelete(error);
    }
}
