/* The C part of the onnxruntime backend without a server: this program is the server that it calls.
 *
 *     harness plan CORES INSTANCE FOLDER < CONFIG            what plan_make makes of a configuration
 *     harness slots FOLDER                                   onnxruntime's words for wrong arguments, by function
 *     harness soak FOLDER_OF_THE_LIBRARY MODEL COUNT < CONFIG   answers random requests; then once more for each
 *                                                            allocation and each call of Triton's, with that one
 * failing
 *
 * The model of `soak` has the inputs x (FP32 [3]) and index (INT64 [1]), and the outputs z = x + x and value, which
 * is index from 0 to 3; another index is an error. */
#include "../../tritonkit/backends/onnxruntime/ask.h"
#include "../../tritonkit/backends/onnxruntime/instance.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { WIDTH = 3, MOST_ROWS = 4, MOST_REQUESTS = 6, CHUNK = 4 };

struct TRITONSERVER_Error {
    char text[1100];
};
struct TRITONBACKEND_Input {
    const void *data;
    int64_t shape[2];
    uint64_t size;
    /* Of how many bytes a buffer is; 0 for one buffer. */
    uint64_t chunk;
    bool on_gpu;
};
struct TRITONBACKEND_Output {
    const char *name;
    int64_t shape[2];
    void *data;
    bool on_gpu;
};
struct TRITONBACKEND_Response {
    TRITONBACKEND_Request *request;
    TRITONBACKEND_Output outputs[2];
    int count;
};
struct TRITONBACKEND_Request {
    TRITONBACKEND_Input x, index;
    /* One byte before the numbers can lie where they are not aligned. */
    char memory[1 + MOST_ROWS * WIDTH * 4] __attribute__((aligned(16)));
    int64_t indices[MOST_ROWS] __attribute__((aligned(16)));
    int wanted;
    int answers;
    int failures;
    int reports;
    bool released;
    bool is_bad;
    /* Whether its outputs are wanted there. */
    bool on_gpu;
};

static long errors, responses, answered, refused, trips, calls, allocations, fail_call = -1, fail_allocation = -1;
static const char *const names[] = {"z", "value"};
static uint64_t most_requests = MOST_REQUESTS;
/* How often the model was run, and how often when an output got no place. */
static long runs, runs_before_no_place = -1;

/* Allocations of the backend; those of onnxruntime are its own. */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
char *__real_strdup(const char *text);

static bool has_memory(void) {
    bool fails = allocations++ == fail_allocation;
    trips += fails;
    return !fails;
}

void *__wrap_malloc(size_t size) { return has_memory() ? __real_malloc(size) : NULL; }
void *__wrap_calloc(size_t count, size_t size) { return has_memory() ? __real_calloc(count, size) : NULL; }
char *__wrap_strdup(const char *text) { return has_memory() ? __real_strdup(text) : NULL; }
void *__wrap_aligned_alloc(size_t alignment, size_t size) {
    return has_memory() ? __real_aligned_alloc(alignment, size) : NULL;
}

static void require(bool holds, const char *what) {
    if (!holds) {
        fprintf(stderr, "not so: %s (call %ld or allocation %ld failing)\n", what, fail_call, fail_allocation);
        exit(1);
    }
}

TRITONSERVER_Error *TRITONSERVER_ErrorNew(int code, const char *message) {
    TRITONSERVER_Error *error = __real_calloc(1, sizeof *error);
    (void)code;
    snprintf(error->text, sizeof error->text, "%s", message);
    errors++;
    return error;
}

void TRITONSERVER_ErrorDelete(TRITONSERVER_Error *error) {
    errors--;
    free(error);
}

const char *TRITONSERVER_ErrorMessage(TRITONSERVER_Error *error) { return error->text; }

/* The error of the one call that is to fail. */
static TRITONSERVER_Error *trip(void) {
    if (calls++ != fail_call) {
        return NULL;
    }
    trips++;
    return TRITONSERVER_ErrorNew(0, "tripped");
}

/* A GPU's memory is the host's here, and a copy lets its time pass. */
static struct {
    void *to;
    const void *from;
    size_t size;
} copying;

int cudaStreamSynchronize(void *stream);
int cudaStreamSynchronize(void *stream) {
    require(!stream, "the stream is the one that copies");
    memcpy(copying.to, copying.from, copying.size);
    copying.size = 0;
    return 0;
}

int cudaMemcpy(void *to, const void *from, size_t size, int kind);
int cudaMemcpy(void *to, const void *from, size_t size, int kind) {
    require(kind == 4 && copying.size == 0, "one copy at a time, by the addresses");
    TRITONSERVER_Error *error = trip();
    if (error) {
        TRITONSERVER_ErrorDelete(error);
        return 1;
    }
    copying.to = to;
    copying.from = from;
    copying.size = size;
    return 0;
}

TRITONSERVER_Error *TRITONSERVER_LogMessage(int level, const char *file, int line, const char *message) {
    (void)level, (void)file, (void)line, (void)message;
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_RequestInput(TRITONBACKEND_Request *request, const char *name,
                                               TRITONBACKEND_Input **input) {
    *input = strcmp(name, "x") == 0 ? &request->x : &request->index;
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_InputProperties(TRITONBACKEND_Input *input, const char **name, int *type,
                                                  const int64_t **shape, uint32_t *rank, uint64_t *size,
                                                  uint32_t *buffers) {
    (void)name, (void)type;
    *shape = input->shape;
    *rank = 2;
    *size = input->size;
    *buffers = input->chunk ? (uint32_t)((input->size + input->chunk - 1) / input->chunk) : 1;
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_InputBuffer(TRITONBACKEND_Input *input, uint32_t index, const void **data,
                                              uint64_t *size, int *memory, int64_t *memory_id) {
    uint64_t from = index * input->chunk, left = input->size - from;
    *data = (const char *)input->data + from;
    *size = input->chunk && input->chunk < left ? input->chunk : left;
    *memory = input->on_gpu ? MEMORY_GPU : MEMORY_CPU;
    *memory_id = 0;
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_RequestOutputCount(TRITONBACKEND_Request *request, uint32_t *count) {
    *count = request->wanted == 2 ? 2 : 1;
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_RequestOutputName(TRITONBACKEND_Request *request, uint32_t index,
                                                    const char **name) {
    *name = request->wanted == 2 ? names[1 - index] : names[request->wanted];
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_RequestRelease(TRITONBACKEND_Request *request, uint32_t flags) {
    require(flags == RELEASE_ALL && !request->released, "a request is released once");
    request->released = true;
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_ResponseNew(TRITONBACKEND_Response **response, TRITONBACKEND_Request *request) {
    TRITONSERVER_Error *error = trip();
    if (!error) {
        *response = __real_calloc(1, sizeof **response);
        (*response)->request = request;
        responses++;
    }
    return error;
}

TRITONSERVER_Error *TRITONBACKEND_ResponseDelete(TRITONBACKEND_Response *response) {
    for (int output = 0; output < response->count; output++) {
        free(response->outputs[output].data);
    }
    free(response);
    responses--;
    return trip();
}

TRITONSERVER_Error *TRITONBACKEND_ResponseOutput(TRITONBACKEND_Response *response, TRITONBACKEND_Output **output,
                                                 const char *name, int type, const int64_t *shape, uint32_t rank) {
    TRITONSERVER_Error *error = trip();
    if (!error) {
        require(rank == 2 && type == 11 && response->count < 2, "an output is as the configuration says");
        *output = &response->outputs[response->count++];
        (*output)->name = name;
        memcpy((*output)->shape, shape, sizeof(*output)->shape);
        (*output)->on_gpu = response->request->on_gpu;
    } else {
        runs_before_no_place = runs;
    }
    return error;
}

TRITONSERVER_Error *TRITONBACKEND_OutputBuffer(TRITONBACKEND_Output *output, void **data, uint64_t size, int *memory,
                                               int64_t *memory_id) {
    TRITONSERVER_Error *error = trip();
    *memory = output->on_gpu ? MEMORY_GPU : MEMORY_CPU;
    *memory_id = 0;
    runs_before_no_place = error ? runs : runs_before_no_place;
    if (!error) {
        require(size == (uint64_t)(output->shape[0] * output->shape[1]) * 4, "a buffer is as large as its shape");
        *data = output->data = __real_malloc(size);
    }
    return error;
}

static void check_answer(const TRITONBACKEND_Response *response) {
    const TRITONBACKEND_Request *request = response->request;
    require(response->count == (request->wanted == 2 ? 2 : 1), "what is wanted is answered");
    for (int output = 0; output < response->count; output++) {
        const TRITONBACKEND_Output *made = &response->outputs[output];
        bool doubled = strcmp(made->name, "z") == 0;
        require(request->wanted == 2 || strcmp(made->name, names[request->wanted]) == 0, "in the wanted output");
        require(made->shape[0] == request->x.shape[0] && made->shape[1] == (doubled ? WIDTH : 1), "in its shape");
        for (int64_t place = 0; place < made->shape[0] * made->shape[1]; place++) {
            float x, found = ((const float *)made->data)[place];
            memcpy(&x, (const char *)request->x.data + place * 4, 4);
            require(found == (doubled ? x + x : (float)request->indices[place]), "and the answer is right");
        }
    }
}

TRITONSERVER_Error *TRITONBACKEND_ResponseSend(TRITONBACKEND_Response *response, uint32_t flags,
                                               TRITONSERVER_Error *error) {
    TRITONBACKEND_Request *request = response->request;
    require(flags == COMPLETE_FINAL && !request->released, "a response goes before its request");
    require(error || !request->is_bad || request->wanted == 0, "a bad request gets an error");
    require(!error || request->is_bad || trips, "a good one gets none");
    if (!error) {
        check_answer(response);
    }
    request->answers++;
    request->failures += error != NULL;
    answered += !error;
    refused += error != NULL;
    TRITONSERVER_Error *failing = TRITONBACKEND_ResponseDelete(response);
    return failing ? failing : trip();
}

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportStatistics(TRITONBACKEND_ModelInstance *instance,
                                                                TRITONBACKEND_Request *request, bool success,
                                                                uint64_t began, uint64_t compute_began,
                                                                uint64_t compute_ended, uint64_t ended) {
    (void)instance;
    require(request->answers == 1 || trips, "statistics follow the answer");
    require(success == !request->failures || trips, "and say how it went");
    require(began && began <= compute_began && compute_began <= compute_ended && compute_ended <= ended,
            "and times follow each other");
    request->reports++;
    return trip();
}

static int64_t batch_size;

TRITONSERVER_Error *TRITONBACKEND_ModelInstanceReportBatchStatistics(TRITONBACKEND_ModelInstance *instance,
                                                                     uint64_t size, uint64_t began,
                                                                     uint64_t compute_began, uint64_t compute_ended,
                                                                     uint64_t ended) {
    (void)instance, (void)began, (void)compute_began, (void)compute_ended, (void)ended;
    require((int64_t)size == batch_size || trips, "a batch is as large as its requests");
    return trip();
}

static uint64_t random_number(uint64_t below) {
    static uint64_t state = 88172645463325252u;
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state % below;
}

static void make(TRITONBACKEND_Request *request) {
    int64_t rows = (int64_t)random_number(MOST_ROWS) + 1;
    *request = (TRITONBACKEND_Request){.wanted = (int)random_number(3), .on_gpu = random_number(4) == 0};
    char *x = request->memory + random_number(2);
    for (int64_t place = 0; place < rows * WIDTH; place++) {
        float number = (float)random_number(1000) / 8;
        memcpy(x + place * 4, &number, 4);
    }
    for (int64_t row = 0; row < rows; row++) {
        request->indices[row] = (int64_t)random_number(4);
    }
    if (random_number(8) == 0) {
        request->indices[0] = 99;
        request->is_bad = true;
    }
    request->x = (TRITONBACKEND_Input){
        x, {rows, WIDTH}, (uint64_t)rows * WIDTH * 4, random_number(2) * CHUNK, random_number(4) == 0};
    request->index = (TRITONBACKEND_Input){
        request->indices, {rows, 1}, (uint64_t)rows * 8, random_number(2) * CHUNK, random_number(4) == 0};
    batch_size += rows;
}

/* Requests that arrive together. */
static void ask(Instance *instance) {
    static TRITONBACKEND_Request requests[MOST_REQUESTS];
    TRITONBACKEND_Request *pointers[MOST_REQUESTS];
    uint32_t count = (uint32_t)random_number(most_requests) + 1;
    batch_size = 0;
    for (uint32_t place = 0; place < count; place++) {
        make(&requests[place]);
        pointers[place] = &requests[place];
    }
    long before = runs;
    runs_before_no_place = -1;
    TRITONSERVER_Error *error = instance_execute(instance, pointers, count);
    require(!error || trips, "requests are taken");
    require(count > 1 || runs_before_no_place != before || runs == before,
            "where an answer has no place, the model is not run");
    for (uint32_t place = 0; place < count; place++) {
        if (error) {
            require(!requests[place].released && !requests[place].answers, "what is refused is left alone");
        } else {
            require(requests[place].released && requests[place].reports == 1, "every request is reported");
            require(requests[place].answers == 1 || trips, "and answered");
        }
    }
    if (error) {
        TRITONSERVER_ErrorDelete(error);
    }
}

static __typeof__(((Ort *)0)->Run) real_run;

static OrtStatus *counted_run(OrtSession *session, const OrtRunOptions *options, const char *const *input_names,
                              const OrtValue *const *inputs, size_t input_count, const char *const *output_names,
                              size_t output_count, OrtValue **outputs) {
    runs++;
    return real_run(session, options, input_names, inputs, input_count, output_names, output_count, outputs);
}

/* The table is filled once, by the first ort_load. */
static void count_runs(Ort *ort) {
    if (ort->Run != counted_run) {
        real_run = ort->Run;
        ort->Run = counted_run;
    }
}

static Instance *open_instance(const char *config, const char *folder, const char *model) {
    Reason why = {"its configuration cannot be read"};
    Json *json = json_read(config, strlen(config));
    Plan *plan = json ? plan_make(json, "m_0_0", model, 2, &why) : NULL;
    json_free(json);
    const Ort *ort = plan ? ort_load(folder, &why) : NULL;
    if (ort) {
        count_runs((Ort *)(uintptr_t)ort);
    } else {
        plan_free(plan);
    }
    Instance *instance = ort ? instance_new(NULL, plan, ort, &why) : NULL;
    if (!instance && !trips) {
        fprintf(stderr, "%s\n", why.text);
        exit(1);
    }
    return instance;
}

static void use(const char *config, const char *folder, const char *model, long count) {
    calls = allocations = trips = 0;
    Instance *instance = open_instance(config, folder, model);
    for (long round = 0; instance && round < count; round++) {
        ask(instance);
    }
    if (instance) {
        instance_free(instance);
    }
    require(errors == 0 && responses == 0, "nothing is left");
}

static int soak(const char *config, const char *folder, const char *model, long count) {
    use(config, folder, model, count);
    long good = answered, bad = refused, failed_allocations = 0, failed_calls = 0;
    do {
        fail_allocation++;
        use(config, folder, model, 3);
        failed_allocations += trips;
    } while (trips);
    fail_allocation = -1;
    /* Together, and one at a time, which are answered another way. */
    for (; most_requests; most_requests = most_requests > 1 ? 1 : 0) {
        fail_call = -1;
        do {
            fail_call++;
            use(config, folder, model, 3);
            failed_calls += trips;
        } while (trips);
    }
    ort_unload();
    printf("answered %ld, refused %ld, failed allocations %ld, failed calls %ld\n", good, bad, failed_allocations,
           failed_calls);
    return 0;
}

static void print_tensors(const char *side, const Tensor *tensors, size_t count) {
    for (size_t index = 0; index < count; index++) {
        printf("%s %s %s", side, tensors[index].name, tensors[index].type->name);
        for (size_t dim = 0; dim < tensors[index].rank; dim++) {
            printf(" %lld", (long long)tensors[index].dims[dim]);
        }
        printf("\n");
    }
}

static int print_plan(const char *config, int cores, const char *instance, const char *folder) {
    Reason why = {"its configuration cannot be read"};
    Json *json = json_read(config, strlen(config));
    Plan *plan = json ? plan_make(json, instance, folder, cores, &why) : NULL;
    json_free(json);
    if (!plan) {
        printf("%s\n", why.text);
        return 0;
    }
    printf("intra %d\ninter %d\nmode %d\nlevel %d\nfile %s\n", plan->intra_threads, plan->inter_threads,
           plan->execution_mode, plan->graph_level, plan->file);
    print_tensors("input", plan->inputs, plan->input_count);
    print_tensors("output", plan->outputs, plan->output_count);
    plan_free(plan);
    return 0;
}

static int slots(const char *folder) {
    Reason why = {""};
    const Ort *ort = ort_load(folder, &why);
    if (!ort) {
        printf("%s\n", why.text);
        return 1;
    }
    OrtSessionOptions *options;
    require(ort_is_done(ort, ort->CreateSessionOptions(&options), &why), "options are made");
    struct {
        const char *name;
        OrtStatus *status;
    } tried[] = {
        {"SetSessionExecutionMode", ort->SetSessionExecutionMode(options, 77)},
        {"SetSessionGraphOptimizationLevel", ort->SetSessionGraphOptimizationLevel(options, 77)},
        {"AddSessionConfigEntry", ort->AddSessionConfigEntry(options, "", "")},
    };
    for (size_t index = 0; index < sizeof tried / sizeof *tried; index++) {
        bool fine = ort_is_done(ort, tried[index].status, &why);
        printf("%s: %s\n", tried[index].name, fine ? "" : why.text);
    }
    ort->ReleaseSessionOptions(options);
    ort_unload();
    return 0;
}

int main(int count, char **words) {
    static char config[1 << 20];
    if (count == 3 && strcmp(words[1], "slots") == 0) {
        return slots(words[2]);
    }
    config[fread(config, 1, sizeof config - 1, stdin)] = '\0';
    if (count == 5 && strcmp(words[1], "plan") == 0) {
        return print_plan(config, atoi(words[2]), words[3], words[4]);
    }
    if (count == 5 && strcmp(words[1], "soak") == 0) {
        return soak(config, words[2], words[3], atol(words[4]));
    }
    return 2;
}
