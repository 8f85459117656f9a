#include "instance.h"

#include "ask.h"
#include "batch.h"
#include "report.h"

#include <stdlib.h>
#include <string.h>

static bool make_room(Instance *instance) {
    size_t inputs = instance->plan->input_count, outputs = instance->plan->output_count;
    instance->gathered = calloc(inputs, sizeof *instance->gathered);
    instance->input_names = calloc(inputs, sizeof *instance->input_names);
    instance->input_values = calloc(inputs, sizeof *instance->input_values);
    instance->output_names = calloc(outputs, sizeof *instance->output_names);
    instance->output_values = calloc(outputs, sizeof *instance->output_values);
    instance->outputs = calloc(outputs, sizeof *instance->outputs);
    instance->places = calloc(outputs, sizeof *instance->places);
    instance->on_gpu = calloc(outputs, sizeof *instance->on_gpu);
    instance->is_copied = calloc(outputs, sizeof *instance->is_copied);
    return instance->gathered && instance->input_names && instance->input_values && instance->output_names &&
           instance->output_values && instance->outputs && instance->places && instance->on_gpu &&
           instance->is_copied;
}

Instance *instance_new(TRITONBACKEND_ModelInstance *handle, Plan *plan, const Ort *ort, Reason *why) {
    Instance *instance = calloc(1, sizeof *instance);
    if (!instance) {
        reason_set(why, "out of memory");
        plan_free(plan);
        return NULL;
    }
    *instance = (Instance){.handle = handle, .plan = plan, .is_direct = true};
    reason_set(why, "out of memory");
    if (!make_room(instance) || !session_open(&instance->session, ort, plan, why)) {
        instance_free(instance);
        return NULL;
    }
    for (size_t input = 0; input < plan->input_count; input++) {
        instance->input_names[input] = plan->inputs[input].name;
    }
    return instance;
}

void instance_free(Instance *instance) {
    session_close(&instance->session);
    for (size_t input = 0; instance->gathered && input < instance->plan->input_count; input++) {
        memory_free(&instance->gathered[input]);
    }
    memory_free(&instance->shape);
    free(instance->gathered);
    free(instance->input_names);
    free(instance->input_values);
    free(instance->output_names);
    free(instance->output_values);
    free(instance->outputs);
    free(instance->places);
    free(instance->on_gpu);
    free(instance->is_copied);
    plan_free(instance->plan);
    free(instance);
}

TRITONSERVER_Error *instance_error(const Instance *instance, OrtStatus *status) {
    if (!status) {
        return NULL;
    }
    const Ort *ort = instance->session.ort;
    TRITONSERVER_Error *error = TRITONSERVER_ErrorNew(ERROR_INTERNAL, ort->GetErrorMessage(status));
    ort->ReleaseStatus(status);
    return error;
}

TRITONSERVER_Error *instance_shape(Instance *instance, const int64_t *from, size_t rank, int64_t **shape) {
    *shape = memory_reserve(&instance->shape, rank * sizeof **shape);
    if (!*shape) {
        return failure("out of memory");
    }
    memcpy(*shape, from, rank * sizeof **shape);
    return NULL;
}

/* Answers the ask at this place, with all later ones that can share its batch. */
static void answer_from(Instance *instance, Ask *asks, Ask **group, uint32_t place, uint32_t count) {
    size_t size = 0;
    for (uint32_t other = place; other < count; other++) {
        if (!asks[other].is_grouped && !asks[other].error &&
            (other == place ||
             (instance->plan->batches && ask_shares_shapes(&asks[place], &asks[other], instance->plan)))) {
            asks[other].is_grouped = true;
            group[size++] = &asks[other];
        }
    }
    batch_answer(instance, group, size);
}

TRITONSERVER_Error *instance_execute(Instance *instance, TRITONBACKEND_Request **requests, uint32_t count) {
    uint64_t began = batch_clock(), rows = 0;
    uint32_t answered = 0;
    Ask *asks = ask_new(instance->plan, count), **group = calloc(count, sizeof *group);
    if (!asks || !group) {
        free(asks);
        free(group);
        return failure("out of memory for %u requests", count);
    }
    instance->run_time = instance->answer_time = 0;
    for (uint32_t place = 0; place < count; place++) {
        ask_read(&asks[place], requests[place], instance->plan);
    }
    for (uint32_t place = 0; place < count; place++) {
        if (asks[place].is_grouped) {
            continue;
        }
        if (asks[place].error) {
            ask_send(&asks[place]);
        } else {
            answer_from(instance, asks, group, place, count);
        }
    }
    uint64_t ended = batch_clock();
    uint64_t computed = ended - instance->answer_time, computing = computed - instance->run_time;
    for (uint32_t place = 0; place < count; place++) {
        rows += (uint64_t)asks[place].rows;
        answered += !asks[place].error;
        complain("statistics",
                 TRITONBACKEND_ModelInstanceReportStatistics(instance->handle, requests[place], !asks[place].error,
                                                             began, computing, computed, ended));
        if (asks[place].error) {
            TRITONSERVER_ErrorDelete(asks[place].error);
        }
    }
    if (answered) {
        complain("statistics", TRITONBACKEND_ModelInstanceReportBatchStatistics(instance->handle, rows, began,
                                                                                computing, computed, ended));
    }
    for (uint32_t place = 0; place < count; place++) {
        complain("a request cannot be released", TRITONBACKEND_RequestRelease(requests[place], RELEASE_ALL));
    }
    free(asks);
    free(group);
    return NULL;
}
