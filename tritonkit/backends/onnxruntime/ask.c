#include "ask.h"

#include "memory.h"
#include "report.h"

#include <stdlib.h>
#include <string.h>

/* Where an empty tensor lies. */
static const char nothing[MEMORY_ALIGNMENT];

Ask *ask_new(const Plan *plan, uint32_t count) {
    size_t parts = plan->input_count * sizeof(Part), each = sizeof(Ask) + parts + plan->output_count;
    Ask *asks = calloc(count, each);
    if (asks) {
        Part *part = (Part *)(asks + count);
        bool *wanted = (bool *)(part + count * plan->input_count);
        for (uint32_t index = 0; index < count; index++) {
            asks[index].parts = part + index * plan->input_count;
            asks[index].wanted = wanted + index * plan->output_count;
        }
    }
    return asks;
}

static TRITONSERVER_Error *locate(Part *part, const Tensor *tensor) {
    if (part->size == 0) {
        part->place = nothing;
        part->in_place = true;
        return NULL;
    }
    if (part->buffers != 1) {
        return NULL;
    }
    const void *data;
    uint64_t size;
    int memory = MEMORY_CPU;
    int64_t memory_id = 0;
    TRITONSERVER_Error *error = TRITONBACKEND_InputBuffer(part->input, 0, &data, &size, &memory, &memory_id);
    if (!error && memory != MEMORY_GPU && size == part->size) {
        part->place = data;
        /* Where another output is written over an input, the one that is given back must not change. */
        part->in_place = memory_is_aligned(data) && size >= tensor->type->read_in_place && !tensor->returned;
    }
    return error;
}

static TRITONSERVER_Error *read_part(Part *part, TRITONBACKEND_Request *request, const Tensor *tensor) {
    uint32_t rank;
    uint64_t size = tensor->type->size;
    TRITONSERVER_Error *error = TRITONBACKEND_RequestInput(request, tensor->name, &part->input);
    if (!error) {
        error =
            TRITONBACKEND_InputProperties(part->input, NULL, NULL, &part->shape, &rank, &part->size, &part->buffers);
    }
    if (error) {
        return error;
    }
    if (rank != tensor->rank) {
        return failure("input %s has %u dimensions instead of %zu", tensor->name, rank, tensor->rank);
    }
    for (uint32_t index = 0; index < rank; index++) {
        if (part->shape[index] < 0 || __builtin_mul_overflow(size, (uint64_t)part->shape[index], &size)) {
            return failure("input %s has an impossible shape", tensor->name);
        }
    }
    if (size != part->size) {
        return failure("input %s: %llu bytes came for a shape of %llu", tensor->name, (unsigned long long)part->size,
                       (unsigned long long)size);
    }
    return locate(part, tensor);
}

static TRITONSERVER_Error *read_wanted(Ask *ask, const Plan *plan) {
    uint32_t count;
    TRITONSERVER_Error *error = TRITONBACKEND_RequestOutputCount(ask->request, &count);
    for (uint32_t index = 0; !error && index < count; index++) {
        const char *name;
        error = TRITONBACKEND_RequestOutputName(ask->request, index, &name);
        for (size_t output = 0; !error && output < plan->output_count; output++) {
            ask->wanted[output] |= strcmp(plan->outputs[output].name, name) == 0;
        }
    }
    return error;
}

void ask_read(Ask *ask, TRITONBACKEND_Request *request, const Plan *plan) {
    ask->request = request;
    ask->error = read_wanted(ask, plan);
    ask->rows = 1;
    for (size_t input = 0; !ask->error && input < plan->input_count; input++) {
        Part *part = &ask->parts[input];
        ask->error = read_part(part, request, &plan->inputs[input]);
        if (!ask->error && plan->batches) {
            if (input > 0 && part->shape[0] != ask->rows) {
                ask->error = failure("the inputs differ in batch size: %lld and %lld", (long long)ask->rows,
                                     (long long)part->shape[0]);
            }
            ask->rows = part->shape[0];
        }
    }
}

bool ask_shares_shapes(const Ask *ask, const Ask *other, const Plan *plan) {
    for (size_t input = 0; input < plan->input_count; input++) {
        size_t sizes = (plan->inputs[input].rank - 1) * sizeof(int64_t);
        if (memcmp(ask->parts[input].shape + 1, other->parts[input].shape + 1, sizes) != 0) {
            return false;
        }
    }
    return true;
}

TRITONSERVER_Error *ask_copy(const Part *part, char *to) {
    uint64_t left = part->size;
    for (uint32_t index = 0; index < part->buffers && left; index++) {
        const void *data;
        uint64_t size;
        int memory = MEMORY_CPU;
        int64_t memory_id = 0;
        TRITONSERVER_Error *error = TRITONBACKEND_InputBuffer(part->input, index, &data, &size, &memory, &memory_id);
        if (error) {
            return error;
        }
        if (size > left || !memory_copy(to, data, size, memory == MEMORY_GPU)) {
            return failure("an input cannot be copied to the host");
        }
        to += size;
        left -= size;
    }
    return left ? failure("an input is shorter than it says") : NULL;
}

TRITONSERVER_Error *ask_output(Ask *ask, const Tensor *tensor, const int64_t *shape, size_t rank, size_t size,
                               void **data, bool *on_gpu) {
    TRITONBACKEND_Output *output;
    int memory = MEMORY_CPU;
    int64_t memory_id = 0;
    TRITONSERVER_Error *error = NULL;
    if (!ask->response) {
        error = TRITONBACKEND_ResponseNew(&ask->response, ask->request);
    }
    if (!error) {
        error = TRITONBACKEND_ResponseOutput(ask->response, &output, tensor->name, tensor->type->triton, shape,
                                             (uint32_t)rank);
    }
    if (!error) {
        error = TRITONBACKEND_OutputBuffer(output, data, size, &memory, &memory_id);
    }
    *on_gpu = memory == MEMORY_GPU;
    return error;
}

void ask_retract(Ask *ask) {
    if (ask->response) {
        complain("a response cannot be deleted", TRITONBACKEND_ResponseDelete(ask->response));
        ask->response = NULL;
    }
    if (ask->error) {
        TRITONSERVER_ErrorDelete(ask->error);
        ask->error = NULL;
    }
}

void ask_send(Ask *ask) {
    TRITONSERVER_Error *error = ask->response ? NULL : TRITONBACKEND_ResponseNew(&ask->response, ask->request);
    if (!error) {
        error = TRITONBACKEND_ResponseSend(ask->response, COMPLETE_FINAL, ask->error);
        ask->response = NULL;
    }
    complain("a response cannot be sent", error);
}
