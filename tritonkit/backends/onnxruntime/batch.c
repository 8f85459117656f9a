#include "batch.h"

#include "outputs.h"
#include "report.h"

#include <time.h>

uint64_t batch_clock(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
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
    if (count == 1 && only->in_place) {
        /* onnxruntime takes it as its own to write in, and does not: it is an input. */
        *data = (void *)(uintptr_t)only->place;
        return NULL;
    }
    char *to = *data = memory_reserve(&instance->gathered[input], *size);
    TRITONSERVER_Error *error =
        to ? NULL : failure("out of memory for a batch of %llu bytes", (unsigned long long)*size);
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
            error = instance_shape(instance, group[0]->parts[input].shape, tensor->rank, &shape);
        }
        if (!error) {
            if (plan->batches) {
                shape[0] = rows;
            }
            error = instance_error(instance, session_wrap(&instance->session, tensor, shape, tensor->rank, data, size,
                                                          &instance->input_values[input]));
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

/* `ran` says whether the model was run, well or not. */
static TRITONSERVER_Error *run(Instance *instance, Ask **group, size_t count, size_t wanted, bool direct, bool *ran) {
    const Session *session = &instance->session;
    const Plan *plan = instance->plan;
    int64_t rows = 0;
    for (size_t place = 0; place < count; place++) {
        rows += group[place]->rows;
    }
    TRITONSERVER_Error *error = bring_inputs(instance, group, count, rows);
    if (!error && direct) {
        error = outputs_place(instance, group[0], wanted);
    }
    uint64_t began = batch_clock();
    *ran = !error && wanted;
    if (*ran) {
        error = instance_error(instance,
                               session->ort->Run(session->handle, NULL, instance->input_names,
                                                 (const OrtValue *const *)instance->input_values, plan->input_count,
                                                 instance->output_names, wanted, instance->output_values));
    }
    uint64_t ended = batch_clock();
    if (!error && direct) {
        error = outputs_complete(instance, group[0], wanted);
    }
    for (size_t output = 0; !error && !direct && output < wanted; output++) {
        error = outputs_split(instance, group, count, output, rows);
    }
    release(session->ort, instance->input_values, plan->input_count);
    release(session->ort, instance->output_values, wanted);
    instance->run_time += ended - began;
    instance->answer_time += batch_clock() - ended;
    return error;
}

void batch_answer(Instance *instance, Ask **group, size_t count) {
    size_t wanted = outputs_note(instance, group, count);
    bool direct = count == 1 && instance->is_direct && outputs_are_known(instance, wanted);
    bool ran;
    TRITONSERVER_Error *error = run(instance, group, count, wanted, direct, &ran);
    if (error && direct && ran) {
        /* Perhaps the model says its own shapes wrongly: then this one runs, and later ones do not try. */
        TRITONSERVER_ErrorDelete(error);
        ask_retract(group[0]);
        error = run(instance, group, count, wanted, false, &ran);
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
