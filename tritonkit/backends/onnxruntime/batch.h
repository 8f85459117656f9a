/* From requests to one batch and back: gather, run once, split. */
#ifndef BATCH_H
#define BATCH_H

#include "ask.h"
#include "instance.h"

/* Answers requests that share their shapes, and sends the responses. Where their batch fails, they run one by one, so
 * that only the one at fault gets the error. */
void batch_answer(Instance *instance, Ask **group, size_t count);

/* Nanoseconds, of the clock that tritonserver's statistics have. */
uint64_t batch_clock(void);

#endif
