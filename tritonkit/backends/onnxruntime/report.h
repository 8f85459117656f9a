/* What is told to tritonserver: errors, and lines in its log. */
#ifndef REPORT_H
#define REPORT_H

#include "triton.h"

/* An error, whose owner has to delete it. */
TRITONSERVER_Error *failure(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* Puts a line in the log. */
void say(int level, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* Puts an error, if there is one, in the log and deletes it. */
void complain(const char *what, TRITONSERVER_Error *error);

#endif
