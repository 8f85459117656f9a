/* One request: what it brings, what it wants, and its response. */
#ifndef ASK_H
#define ASK_H

#include "plan.h"
#include "triton.h"

/* What a request brings for one input. */
typedef struct {
    TRITONBACKEND_Input *input;
    const int64_t *shape;
    uint64_t size;
    uint32_t buffers;
    /* Where all of it lies, if that is one piece of the host's memory; and whether it is computed on there. */
    const void *place;
    bool in_place;
} Part;

typedef struct {
    TRITONBACKEND_Request *request;
    TRITONBACKEND_Response *response;
    /* Why it has no answer. */
    TRITONSERVER_Error *error;
    /* 1 in a model that does not batch. */
    int64_t rows;
    /* By input, and by output. */
    Part *parts;
    bool *wanted;
    bool is_grouped;
} Ask;

/* Room for the asks of so many requests, in one block to be freed; NULL where there is none. */
Ask *ask_new(const Plan *plan, uint32_t count);
/* Reads a request; what is wrong with it is its error. */
void ask_read(Ask *ask, TRITONBACKEND_Request *request, const Plan *plan);
/* Whether two can share a batch: all their shapes are equal but for the rows. */
bool ask_shares_shapes(const Ask *ask, const Ask *other, const Plan *plan);
/* Copies what a request brings for one input. */
TRITONSERVER_Error *ask_copy(const Part *part, char *to);
/* Makes an output of the response, and where it is to be written. */
TRITONSERVER_Error *ask_output(Ask *ask, const Tensor *tensor, const int64_t *shape, size_t rank, size_t size,
                               void **data, bool *on_gpu);
/* Takes back a response, or an error, that is not sent. */
void ask_retract(Ask *ask);
/* Sends the response, or the error. */
void ask_send(Ask *ask);

#endif
