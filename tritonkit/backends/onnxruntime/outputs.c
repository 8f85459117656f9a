#include "outputs.h"

#include "report.h"

#include <stdio.h>

size_t outputs_note(Instance *instance, Ask **group, size_t count) {
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

bool outputs_are_known(const Instance *instance, size_t wanted) {
    for (size_t output = 0; output < wanted; output++) {
        if (!instance->outputs[output]->known) {
            return false;
        }
    }
    return true;
}

/* Whether a place is also one that an input is read from: a client may use one region of shared memory for both. */
static bool is_input(const Instance *instance, const Ask *ask, const void *place, uint64_t size) {
    uintptr_t to = (uintptr_t)place;
    for (size_t input = 0; input < instance->plan->input_count; input++) {
        const Part *part = &ask->parts[input];
        uintptr_t from = (uintptr_t)part->place;
        if (from && to < from + part->size && from < to + size) {
            return true;
        }
    }
    return false;
}

TRITONSERVER_Error *outputs_place(Instance *instance, Ask *ask, size_t wanted) {
    TRITONSERVER_Error *error = NULL;
    for (size_t output = 0; !error && output < wanted; output++) {
        const Tensor *tensor = instance->outputs[output];
        int64_t *shape;
        uint64_t size = 0;
        error = instance_shape(instance, tensor->dims, tensor->rank, &shape);
        if (!error) {
            if (instance->plan->batches) {
                shape[0] = ask->rows;
            }
            size = bytes(tensor, shape, tensor->rank);
            error = ask_output(ask, tensor, shape, tensor->rank, size, &instance->places[output],
                               &instance->on_gpu[output]);
        }
        instance->is_copied[output] =
            !error && (instance->on_gpu[output] || !memory_is_aligned(instance->places[output]) ||
                       is_input(instance, ask, instance->places[output], size));
        if (!error && size && !instance->is_copied[output]) {
            error = instance_error(instance,
                                   session_wrap(&instance->session, tensor, shape, tensor->rank,
                                                instance->places[output], size, &instance->output_values[output]));
        }
    }
    return error;
}

/* What the session has made of one output: where it lies, and its shape. */
static TRITONSERVER_Error *look(Instance *instance, size_t output, void **data, int64_t **shape, size_t *rank) {
    const Ort *ort = instance->session.ort;
    OrtValue *value = instance->output_values[output];
    OrtShape *made = NULL;
    TRITONSERVER_Error *error = instance_error(instance, ort->GetTensorTypeAndShape(value, &made));
    if (error) {
        return error;
    }
    error = instance_error(instance, ort->GetDimensionsCount(made, rank));
    *shape = error ? NULL : memory_reserve(&instance->shape, *rank * sizeof **shape);
    if (!error) {
        error = *shape ? instance_error(instance, ort->GetDimensions(made, *shape, *rank)) : failure("out of memory");
    }
    ort->ReleaseTensorTypeAndShapeInfo(made);
    return error ? error : instance_error(instance, ort->GetTensorMutableData(value, data));
}

static TRITONSERVER_Error *no_batch(const Tensor *tensor, const int64_t *shape, size_t rank, int64_t rows) {
    char text[256] = "";
    size_t used = 0;
    for (size_t index = 0; index < rank && used < sizeof text; index++) {
        used +=
            (size_t)snprintf(text + used, sizeof text - used, "%s%lld", index ? ", " : "", (long long)shape[index]);
    }
    return failure("output %s: shape [%s] for a batch of %lld; the model does not batch along the first dimension "
                   "(max_batch_size: 0 serves it as it is)",
                   tensor->name, text, (long long)rows);
}

TRITONSERVER_Error *outputs_split(Instance *instance, Ask **group, size_t count, size_t output, int64_t rows) {
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

/* Whether an output has the shape that its place in the response was made for. */
static bool fits_place(const Instance *instance, const Ask *ask, const Tensor *tensor, const int64_t *shape,
                       size_t rank) {
    bool fits = rank == tensor->rank;
    for (size_t index = 0; fits && index < rank; index++) {
        fits = shape[index] == (instance->plan->batches && index == 0 ? ask->rows : tensor->dims[index]);
    }
    return fits;
}

TRITONSERVER_Error *outputs_complete(Instance *instance, Ask *ask, size_t wanted) {
    TRITONSERVER_Error *error = NULL;
    for (size_t output = 0; !error && output < wanted; output++) {
        if (instance->is_copied[output]) {
            const Tensor *tensor = instance->outputs[output];
            void *made;
            int64_t *shape;
            size_t rank;
            error = look(instance, output, &made, &shape, &rank);
            if (!error && !fits_place(instance, ask, tensor, shape, rank)) {
                error = failure("output %s has another shape than the model says", tensor->name);
            }
            if (!error &&
                !memory_copy(instance->places[output], made, bytes(tensor, shape, rank), instance->on_gpu[output])) {
                error = failure("output %s cannot be copied to the GPU", tensor->name);
            }
        }
    }
    return error;
}
