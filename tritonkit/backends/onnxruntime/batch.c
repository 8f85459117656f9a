#include "batch.h"

#include <stdio.h>
#include <string.h>
#include <time.h>

uint64_t batch_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static TRITONSERVER_Error *done(const Instance *instance, OrtStatus *status) {
    if (!status) {
        return NULL;
    }
    const Ort *ort = instance->session.ort;
    TRITONSERVER_Error *error = TRITONSERVER_ErrorNew(ERROR_INTERNAL, ort->GetErrorMessage(status));
    ort->ReleaseStatus(status);
    return error;
}

/* A shape to write in, of this rank. */
static TRITONSERVER_Error *copy_shape(Instance *instance, const int64_t *from, size_t rank, int64_t **shape) {
    *shape = memory_reserve(&instance->shape, rank * sizeof **shape);
    if (!*shape) {
        return failure("out of memory");
    }
    memcpy(*shape, from, rank * sizeof **shape);
    return NULL;
}

static TRITONSERVER_Error *gather(Instance *instance, Ask **group, size_t count, size_t input, void **data,
                                  uint64_t *size) {
    *size = 0;
    for (size_t place = 0; place < count; place++) {
        if (__builtin_add_overflow(*size, group[place]->parts[input].size, size)) {
            return failure("a batch has an impossible size");
        }
    }
    const Part *only = &group[0]->parts[input];
    if (count == 1 && only->data) {
        /* onnxruntime takes it as its own to write in, and does not: it is an input. */
        *data = (void *)(uintptr_t)only->data;
        return NULL;
    }
    char *to = *data = memory_reserve(&instance->gathered[input], *size);
    TRITONSERVER_Error *error = to ? NULL : failure("out of memory for a batch of %llu bytes",
                                                    (unsigned long long)*size);
    for (size_t place = 0; !error && place < count; place++) {
        error = ask_copy(&group[place]->parts[input], to);
        to += group[place]->parts[input].size;
    }
    return error;
}

static TRITONSERVER_Error *bring_inputs(Instance *instance, Ask **group, size_t count, int64_t rows) {
    const Plan *plan = instance->plan;
    TRITONSERVER_Error *error = NULL;
    for (size_t input = 0; !error && input < plan->input_count; input++) {
        const Tensor *tensor = &plan->inputs[input];
        void *data = NULL;
        uint64_t size;
        int64_t *shape;
        error = gather(instance, group, count, input, &data, &size);
        if (!error) {
            error = copy_shape(instance, group[0]->parts[input].shape, tensor->rank, &shape);
        }
        if (!error) {
            if (plan->batches) {
                shape[0] = rows;
            }
            error = done(instance, session_wrap(&instance->session, tensor, shape, tensor->rank, data, size,
                                                &instance->input_values[input]));
        }
    }
    return error;
}

/* Notes which outputs anybody in a group wants; how many. */
static size_t note_outputs(Instance *instance, Ask **group, size_t count) {
    size_t wanted = 0;
    for (size_t output = 0; output < instance->plan->output_count; output++) {
        bool by_any = false;
        for (size_t place = 0; place < count; place++) {
            by_any |= group[place]->wanted[output];
        }
        if (by_any) {
            instance->outputs[wanted] = &instance->plan->outputs[output];
            instance->output_names[wanted++] = instance->plan->outputs[output].name;
        }
    }
    return wanted;
}

static uint64_t bytes(const Tensor *tensor, const int64_t *shape, size_t rank) {
    uint64_t size = tensor->type->size;
    for (size_t index = 0; index < rank; index++) {
        size *= (uint64_t)shape[index];
    }
    return size;
}

static bool all_known(const Instance *instance, size_t wanted) {
    for (size_t output = 0; output < wanted; output++) {
        if (!instance->outputs[output]->known) {
            return false;
        }
    }
    return true;
}

/* Has the session write into the response itself, where that lies in the host's memory. */
static TRITONSERVER_Error *place_outputs(Instance *instance, Ask *ask, size_t wanted) {
    TRITONSERVER_Error *error = NULL;
    for (size_t output = 0; !error && output < wanted; output++) {
        const Tensor *tensor = instance->outputs[output];
        int64_t *shape;
        uint64_t size = 0;
        error = copy_shape(instance, tensor->dims, tensor->rank, &shape);
        if (!error) {
            if (instance->plan->batches) {
                shape[0] = ask->rows;
            }
            size = bytes(tensor, shape, tensor->rank);
            error = ask_output(ask, tensor, shape, tensor->rank, size, &instance->places[output],
                               &instance->on_gpu[output]);
        }
        if (!error && size && !instance->on_gpu[output]) {
            error = done(instance, session_wrap(&instance->session, tensor, shape, tensor->rank,
                                                instance->places[output], size, &instance->output_values[output]));
        }
    }
    return error;
}

/* What the session has made of one output: where it lies, and its shape. */
static TRITONSERVER_Error *look(Instance *instance, size_t output, void **data, int64_t **shape, size_t *rank) {
    const Ort *ort = instance->session.ort;
    OrtShape *made = NULL;
    TRITONSERVER_Error *error = done(instance, ort->GetTensorTypeAndShape(instance->output_values[output], &made));
    if (error) {
        return error;
    }
    error = done(instance, ort->GetDimensionsCount(made, rank));
    *shape = error ? NULL : memory_reserve(&instance->shape, *rank * sizeof **shape);
    if (!error) {
        error = *shape ? done(instance, ort->GetDimensions(made, *shape, *rank)) : failure("out of memory");
    }
    ort->ReleaseTensorTypeAndShapeInfo(made);
    return error ? error : done(instance, ort->GetTensorMutableData(instance->output_values[output], data));
}

static TRITONSERVER_Error *no_batch(const Tensor *tensor, const int64_t *shape, size_t rank, int64_t rows) {
    char text[256] = "";
    size_t used = 0;
    for (size_t index = 0; index < rank && used < sizeof text; index++) {
        used += (size_t)snprintf(text + used, sizeof text - used, "%s%lld", index ? ", " : "",
                                 (long long)shape[index]);
    }
    return failure("output %s: shape [%s] for a batch of %lld; the model does not batch along the first dimension "
                   "(max_batch_size: 0 serves it as it is)",
                   tensor->name, text, (long long)rows);
}

/* Gives each its rows of one output. What goes wrong with one response is the error of that one. */
static TRITONSERVER_Error *split(Instance *instance, Ask **group, size_t count, size_t output, int64_t rows) {
    const Tensor *tensor = instance->outputs[output];
    size_t index = (size_t)(tensor - instance->plan->outputs), rank;
    void *made;
    int64_t *shape;
    TRITONSERVER_Error *error = look(instance, output, &made, &shape, &rank);
    if (!error && instance->plan->batches && (rank == 0 || shape[0] != rows)) {
        error = no_batch(tensor, shape, rank, rows);
    }
    const char *from = made;
    for (size_t place = 0; !error && place < count; place++) {
        Ask *ask = group[place];
        if (instance->plan->batches) {
            shape[0] = ask->rows;
        }
        uint64_t size = bytes(tensor, shape, rank);
        if (ask->wanted[index] && !ask->error) {
            void *to;
            bool on_gpu;
            ask->error = ask_output(ask, tensor, shape, rank, size, &to, &on_gpu);
            if (!ask->error && !memory_copy(to, from, size, on_gpu)) {
                ask->error = failure("output %s cannot be copied to the GPU", tensor->name);
            }
        }
        from += size;
    }
    return error;
}

/* What the session could not write into the response itself. */
static TRITONSERVER_Error *complete(Instance *instance, Ask *ask, size_t wanted) {
    TRITONSERVER_Error *error = NULL;
    for (size_t output = 0; !error && output < wanted; output++) {
        if (instance->on_gpu[output]) {
            const Tensor *tensor = instance->outputs[output];
            void *made;
            int64_t *shape;
            size_t rank;
            error = look(instance, output, &made, &shape, &rank);
            if (!error && (rank != tensor->rank || (instance->plan->batches && shape[0] != ask->rows))) {
                error = no_batch(tensor, shape, rank, ask->rows);
            }
            if (!error && !memory_copy(instance->places[output], made, bytes(tensor, shape, rank), true)) {
                error = failure("output %s cannot be copied to the GPU", tensor->name);
            }
        }
    }
    return error;
}

static void release(const Ort *ort, OrtValue **values, size_t count) {
    for (size_t index = 0; index < count; index++) {
        if (values[index]) {
            ort->ReleaseValue(values[index]);
            values[index] = NULL;
        }
    }
}

static TRITONSERVER_Error *run(Instance *instance, Ask **group, size_t count, size_t wanted, bool direct) {
    const Session *session = &instance->session;
    const Plan *plan = instance->plan;
    int64_t rows = 0;
    for (size_t place = 0; place < count; place++) {
        rows += group[place]->rows;
    }
    TRITONSERVER_Error *error = bring_inputs(instance, group, count, rows);
    if (!error && direct) {
        error = place_outputs(instance, group[0], wanted);
    }
    uint64_t began = batch_clock();
    if (!error && wanted) {
        error = done(instance, session->ort->Run(session->handle, NULL, instance->input_names,
                                                 (const OrtValue *const *)instance->input_values, plan->input_count,
                                                 instance->output_names, wanted, instance->output_values));
    }
    uint64_t ended = batch_clock();
    if (!error && direct) {
        error = complete(instance, group[0], wanted);
    }
    for (size_t output = 0; !error && !direct && output < wanted; output++) {
        error = split(instance, group, count, output, rows);
    }
    release(session->ort, instance->input_values, plan->input_count);
    release(session->ort, instance->output_values, wanted);
    instance->run_time += ended - began;
    instance->answer_time += batch_clock() - ended;
    return error;
}

void batch_answer(Instance *instance, Ask **group, size_t count) {
    size_t wanted = note_outputs(instance, group, count);
    bool direct = count == 1 && instance->is_direct && all_known(instance, wanted);
    TRITONSERVER_Error *error = run(instance, group, count, wanted, direct);
    if (error && direct) {
        /* Perhaps the model says its own shapes wrongly: then this one runs, and later ones do not try. */
        TRITONSERVER_ErrorDelete(error);
        ask_retract(group[0]);
        error = run(instance, group, count, wanted, false);
        instance->is_direct = error || group[0]->error;
    }
    if (error) {
        for (size_t place = 0; place < count; place++) {
            ask_retract(group[place]);
        }
    }
    if (error && count > 1) {
        TRITONSERVER_ErrorDelete(error);
        for (size_t place = 0; place < count; place++) {
            batch_answer(instance, &group[place], 1);
        }
        return;
    }
    if (error) {
        group[0]->error = error;
    }
    uint64_t began = batch_clock();
    for (size_t place = 0; place < count; place++) {
        ask_send(group[place]);
    }
    instance->answer_time += batch_clock() - began;
}
