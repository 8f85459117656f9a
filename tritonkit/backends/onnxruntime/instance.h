/* One instance of a model that runs inside tritonserver. */
#ifndef INSTANCE_H
#define INSTANCE_H

#include "memory.h"
#include "session.h"
#include "triton.h"

typedef struct Instance {
    struct Instance *next;
    TRITONBACKEND_ModelInstance *handle;
    Plan *plan;
    Session session;
    /* By input: where the rows of several requests become one batch. */
    Memory *gathered;
    Memory shape;
    /* By input and by output, for one run. */
    const char **input_names;
    const char **output_names;
    OrtValue **input_values;
    OrtValue **output_values;
    const Tensor **outputs;
    void **places;
    bool *on_gpu;
    bool *is_copied;
    /* Whether outputs of known shapes are written straight into the response. */
    bool is_direct;
    /* Nanoseconds of one execution that went into the session, and into the answers. */
    uint64_t run_time;
    uint64_t answer_time;
} Instance;

/* An instance for a plan, which is its own from then on; NULL with the reason where there is none. */
Instance *instance_new(TRITONBACKEND_ModelInstance *handle, Plan *plan, const Ort *ort, Reason *why);
void instance_free(Instance *instance);

/* What onnxruntime says, as an error of Triton's; the status is released. NULL where it says nothing. */
TRITONSERVER_Error *instance_error(const Instance *instance, OrtStatus *status);
/* A copy of a shape to write in, until the next one. */
TRITONSERVER_Error *instance_shape(Instance *instance, const int64_t *from, size_t rank, int64_t **shape);

/* Answers requests, as TRITONBACKEND_ModelInstanceExecute must. */
TRITONSERVER_Error *instance_execute(Instance *instance, TRITONBACKEND_Request **requests, uint32_t count);

#endif
