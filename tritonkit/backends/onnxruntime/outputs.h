/* The outputs of one run: which are wanted, where they go, and who gets which rows. */
#ifndef OUTPUTS_H
#define OUTPUTS_H

#include "ask.h"
#include "instance.h"

/* Notes which outputs anybody in a group wants; how many. */
size_t outputs_note(Instance *instance, Ask **group, size_t count);
/* Whether the model says the shapes of all that are wanted. */
bool outputs_are_known(const Instance *instance, size_t wanted);

/* Before a run: has the session write into the response itself, where that can be. */
TRITONSERVER_Error *outputs_place(Instance *instance, Ask *ask, size_t wanted);
/* After it: copies into the response what the session could not write there itself. */
TRITONSERVER_Error *outputs_complete(Instance *instance, Ask *ask, size_t wanted);

/* After a run that placed nothing: gives each request its rows of one output. What goes wrong with one response is
 * the error of that one. */
TRITONSERVER_Error *outputs_split(Instance *instance, Ask **group, size_t count, size_t output, int64_t rows);

#endif
