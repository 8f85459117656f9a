#include "session.h"

#include <stdlib.h>
#include <string.h>

typedef OrtStatus *(*Count)(const OrtSession *, size_t *);
typedef OrtStatus *(*Name)(const OrtSession *, size_t, OrtAllocator *, char **);
typedef OrtStatus *(*Info)(const OrtSession *, size_t, OrtTypeInfo **);

/* The inputs or the outputs of a model, and what the plan says of them. */
typedef struct {
    Count count;
    Name name;
    Info info;
    Tensor *stated;
    size_t stated_count;
} Side;

static bool configure(const Ort *ort, OrtSessionOptions *options, const Plan *plan, Reason *why) {
    /* Threads that spin between operators take the cores from the server and from other instances. */
    return ort_is_done(ort, ort->AddSessionConfigEntry(options, "session.intra_op.allow_spinning", "0"), why) &&
           ort_is_done(ort, ort->SetIntraOpNumThreads(options, plan->intra_threads), why) &&
           ort_is_done(ort, ort->SetInterOpNumThreads(options, plan->inter_threads), why) &&
           ort_is_done(ort, ort->SetSessionExecutionMode(options, plan->execution_mode != 0), why) &&
           ort_is_done(ort, ort->SetSessionGraphOptimizationLevel(options, plan->graph_level), why);
}

static bool create(Session *session, const Plan *plan, Reason *why) {
    const Ort *ort = session->ort;
    OrtSessionOptions *options = NULL;
    bool done = ort_is_done(ort, ort->CreateSessionOptions(&options), why) && configure(ort, options, plan, why) &&
                ort_is_done(ort, ort->CreateSession(ort->env, plan->file, options, &session->handle), why);
    ort->ReleaseSessionOptions(options);
    return done &&
           ort_is_done(ort, ort->CreateCpuMemoryInfo(ORT_DEVICE_ALLOCATOR, ORT_MEMORY_DEFAULT, &session->memory),
                       why);
}

/* Whether a tensor is as the model has it; the sizes that both leave open stay open. */
static bool fits(Tensor *stated, bool batches, int type, const int64_t *dims, size_t rank) {
    /* A model whose rank onnxruntime does not know has no dims at all. */
    bool agrees = stated->type->onnx == type && (rank == 0 || rank == stated->rank);
    stated->known = rank > 0;
    for (size_t index = 0; agrees && index < rank; index++) {
        if (batches && index == 0) {
            agrees = dims[index] <= 0;
            continue;
        }
        agrees = dims[index] < 0 || stated->dims[index] < 0 || dims[index] == stated->dims[index];
        stated->known = stated->known && dims[index] >= 0;
        if (dims[index] >= 0) {
            stated->dims[index] = dims[index];
        }
    }
    return agrees;
}

static bool check_shape(const Ort *ort, Tensor *stated, bool batches, const OrtShape *shape, Reason *why) {
    int type;
    size_t rank;
    /* What is no tensor has no shape. */
    if (!shape || !ort_is_done(ort, ort->GetTensorElementType(shape, &type), why) ||
        !ort_is_done(ort, ort->GetDimensionsCount(shape, &rank), why)) {
        return false;
    }
    int64_t *dims = calloc(rank + 1, sizeof *dims);
    bool agrees = dims && ort_is_done(ort, ort->GetDimensions(shape, dims, rank), why) &&
                  fits(stated, batches, type, dims, rank);
    free(dims);
    return agrees;
}

static Tensor *find(const Side *side, const char *name) {
    for (size_t index = 0; index < side->stated_count; index++) {
        if (strcmp(side->stated[index].name, name) == 0) {
            return &side->stated[index];
        }
    }
    return NULL;
}

/* Whether the plan says the tensor at this place of the model rightly; `found` says whether it does at all. */
static bool check(const Session *session, const Side *side, size_t place, bool batches, bool *found, Reason *why) {
    const Ort *ort = session->ort;
    OrtAllocator *allocator;
    OrtTypeInfo *info = NULL;
    const OrtShape *shape = NULL;
    char *name = NULL;
    if (!ort_is_done(ort, ort->GetAllocatorWithDefaultOptions(&allocator), why) ||
        !ort_is_done(ort, side->name(session->handle, place, allocator, &name), why)) {
        return false;
    }
    Tensor *stated = find(side, name);
    *found = stated != NULL;
    bool done = ort_is_done(ort, ort->AllocatorFree(allocator, name), why) &&
                (!stated || (ort_is_done(ort, side->info(session->handle, place, &info), why) &&
                             ort_is_done(ort, ort->CastTypeInfoToTensorInfo(info, &shape), why) &&
                             check_shape(ort, stated, batches, shape, why)));
    ort->ReleaseTypeInfo(info);
    return done;
}

static bool check_side(const Session *session, const Side *side, bool batches, size_t *missing, Reason *why) {
    size_t count, matched = 0;
    if (!ort_is_done(session->ort, side->count(session->handle, &count), why)) {
        return false;
    }
    for (size_t place = 0; place < count; place++) {
        bool found = false;
        if (!check(session, side, place, batches, &found, why)) {
            return false;
        }
        matched += found;
    }
    *missing = count - matched;
    return matched == side->stated_count;
}

/* An output that is an input: onnxruntime gives back the input itself, and leaves the output's place unwritten. */
static void note_returned(Plan *plan) {
    for (size_t output = 0; output < plan->output_count; output++) {
        for (size_t input = 0; input < plan->input_count; input++) {
            if (strcmp(plan->outputs[output].name, plan->inputs[input].name) == 0) {
                plan->outputs[output].known = false;
                plan->inputs[input].returned = true;
            }
        }
    }
}

bool session_open(Session *session, const Ort *ort, Plan *plan, Reason *why) {
    *session = (Session){.ort = ort};
    if (!create(session, plan, why)) {
        return false;
    }
    Side inputs = {ort->SessionGetInputCount, ort->SessionGetInputName, ort->SessionGetInputTypeInfo, plan->inputs,
                   plan->input_count};
    Side outputs = {ort->SessionGetOutputCount, ort->SessionGetOutputName, ort->SessionGetOutputTypeInfo,
                    plan->outputs, plan->output_count};
    size_t missing_inputs, missing_outputs;
    reason_set(why, "its configuration does not fit the model file");
    bool fitting = check_side(session, &inputs, plan->batches, &missing_inputs, why) && missing_inputs == 0 &&
                   check_side(session, &outputs, plan->batches, &missing_outputs, why);
    note_returned(plan);
    return fitting;
}

void session_close(Session *session) {
    if (session->handle) {
        session->ort->ReleaseSession(session->handle);
    }
    if (session->memory) {
        session->ort->ReleaseMemoryInfo(session->memory);
    }
    *session = (Session){0};
}

OrtStatus *session_wrap(const Session *session, const Tensor *tensor, const int64_t *shape, size_t rank, void *data,
                        size_t size, OrtValue **value) {
    return session->ort->CreateTensorWithDataAsOrtValue(session->memory, data, size, shape, rank, tensor->type->onnx,
                                                        value);
}
