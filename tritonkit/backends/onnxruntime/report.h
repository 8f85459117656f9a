/* What is told to tritonserver: errors, and lines in its log. */
#ifndef REPORT_H
#define REPORT_H

#include "triton.h"

/* An error, whose owner has to delete it. */
TRITONSERVER_Error *failure(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Puts a line in the log, as from the place in the sources where this stands: level, format, values. */
#define say(...) report_line(__FILE__, __LINE__, __VA_ARGS__)
void report_line(const char *file, int line, int level, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
/* The same for an error, if there is one, which is deleted: what failed, and the error. */
#define complain(...) report_error(__FILE__, __LINE__, __VA_ARGS__)
void report_error(const char *file, int line, const char *what, TRITONSERVER_Error *error);

#endif
