#include "plan.h"

#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>

#define DEFAULT_FILENAME "model.onnx"

/* So many bytes of a type in which images come are one, and take long to copy. */
#define IMAGE 65536

static const Type TYPES[] = {
    {"TYPE_BOOL", 1, 9, 1, UINT64_MAX},    {"TYPE_UINT8", 2, 2, 1, IMAGE},         {"TYPE_UINT16", 3, 4, 2, UINT64_MAX},
    {"TYPE_UINT32", 4, 12, 4, UINT64_MAX}, {"TYPE_UINT64", 5, 13, 8, UINT64_MAX},  {"TYPE_INT8", 6, 3, 1, IMAGE},
    {"TYPE_INT16", 7, 5, 2, UINT64_MAX},   {"TYPE_INT32", 8, 6, 4, UINT64_MAX},    {"TYPE_INT64", 9, 7, 8, UINT64_MAX},
    {"TYPE_FP16", 10, 10, 2, 0},           {"TYPE_FP32", 11, 1, 4, 0},             {"TYPE_FP64", 12, 11, 8, 0},
};

/* Fields that are tritonserver's own affair, or are read below. One that is not here may mean anything. */
static const char *const CONFIG_FIELDS[] = {
    "name",
    "platform",
    "backend",
    "runtime",
    "version_policy",
    "max_batch_size",
    "input",
    "output",
    "instance_group",
    "default_model_filename",
    "parameters",
    "optimization",
    "dynamic_batching",
    "sequence_batching",
    "model_warmup",
    "response_cache",
    "metric_tags",
    "model_metrics",
    NULL,
};
static const char *const TENSOR_FIELDS[] = {
    "name", "data_type", "format", "dims", "reshape", "label_filename", NULL,
};
static const char *const OPTIMIZATION_FIELDS[] = {
    "graph",
    "priority",
    "cuda",
    "input_pinned_memory",
    "output_pinned_memory",
    "gather_kernel_buffer_threshold",
    "eager_batching",
    NULL,
};
static const char *const PARAMETERS[] = {
    "intra_op_thread_count", "inter_op_thread_count", "execution_mode", "own_process", NULL,
};

static bool is_among(const char *word, const char *const *words) {
    while (*words && strcmp(*words, word) != 0) {
        words++;
    }
    return *words != NULL;
}

/* Whether an object says nothing beyond these fields. */
static bool says_only(const Json *object, const char *const *fields, const char *what, Reason *why) {
    for (const Json *member = object ? object->first : NULL; member; member = member->next) {
        if (!(member->key && is_among(member->key, fields)) && !json_says_nothing(member)) {
            reason_set(why, "%s%s", what, member->key ? member->key : "without a name");
            return false;
        }
    }
    return true;
}

static bool read_dims(const Json *entry, bool batches, Tensor *tensor) {
    const Json *reshaped = json_member(json_member(entry, "reshape"), "shape");
    const Json *dims = reshaped ? reshaped : json_member(entry, "dims");
    size_t rank = batches ? 1 : 0;
    for (const Json *dim = dims ? dims->first : NULL; dim; dim = dim->next) {
        rank++;
    }
    /* Never of no bytes at all, which calloc may answer with NULL. */
    tensor->dims = calloc(rank + 1, sizeof *tensor->dims);
    if (!tensor->dims) {
        return false;
    }
    if (batches) {
        tensor->dims[tensor->rank++] = -1;
    }
    for (const Json *dim = dims ? dims->first : NULL; dim; dim = dim->next) {
        long long size;
        if (!json_whole(dim, &size) || size < -1) {
            return false;
        }
        tensor->dims[tensor->rank++] = size;
    }
    return true;
}

static bool read_tensor(const Json *entry, bool batches, Tensor *tensor, Reason *why) {
    const char *name = json_text(entry, "name", ""), *type = json_text(entry, "data_type", "");
    if (!says_only(entry, TENSOR_FIELDS, "a tensor's field ", why)) {
        return false;
    }
    for (size_t index = 0; index < sizeof TYPES / sizeof *TYPES; index++) {
        if (strcmp(TYPES[index].name, type) == 0) {
            tensor->type = &TYPES[index];
        }
    }
    if (!tensor->type) {
        reason_set(why, "%.100s is %.100s", name, type);
        return false;
    }
    tensor->name = strdup(name);
    if (!tensor->name || !read_dims(entry, batches, tensor)) {
        reason_set(why, "the dims of %.100s cannot be read", name);
        return false;
    }
    return true;
}

static bool read_tensors(const Json *entries, bool batches, Tensor **tensors, size_t *count, Reason *why) {
    size_t stated = 0;
    for (const Json *entry = entries ? entries->first : NULL; entry; entry = entry->next) {
        stated++;
    }
    *tensors = calloc(stated + 1, sizeof **tensors);
    if (!*tensors || stated == 0) {
        reason_set(why, "its inputs or outputs cannot be read");
        return false;
    }
    for (const Json *entry = entries->first; entry; entry = entry->next) {
        /* Counted first, so that what a failure leaves is freed. */
        if (!read_tensor(entry, batches, &(*tensors)[(*count)++], why)) {
            return false;
        }
    }
    return true;
}

static bool read_parameter(const Json *parameters, const char *name, int *number, Reason *why) {
    const Json *stated = json_member(json_member(parameters, name), "string_value");
    long long value = 0;
    bool plain = !stated || (stated->text && strspn(stated->text, "0123456789") == strlen(stated->text));
    if (!plain || (stated && (!json_whole(stated, &value) || value > INT_MAX))) {
        reason_set(why, "the parameter %s is no whole number", name);
        return false;
    }
    *number = (int)value;
    return true;
}

static bool read_parameters(const Json *parameters, Plan *plan, Reason *why) {
    const char *own_process = json_text(json_member(parameters, "own_process"), "string_value", "false");
    if (!says_only(parameters, PARAMETERS, "the parameter ", why)) {
        return false;
    }
    if (strcasecmp(own_process, "false") != 0 && strcmp(own_process, "0") != 0) {
        reason_set(why, "the parameter own_process");
        return false;
    }
    return read_parameter(parameters, "intra_op_thread_count", &plan->intra_threads, why) &&
           read_parameter(parameters, "inter_op_thread_count", &plan->inter_threads, why) &&
           read_parameter(parameters, "execution_mode", &plan->execution_mode, why);
}

/* Triton's number for the level of graph optimization as onnxruntime's. */
static int graph_level(const Json *optimization) {
    long long level = 0;
    json_whole(json_member(json_member(optimization, "graph"), "level"), &level);
    switch (level) {
    case -1:
        return 1;
    case 1:
        return 2;
    case 2:
        return 0;
    default:
        return 99;
    }
}

/* The cores divided among the instances that share them, which are those of one host policy. */
static int threads(const Json *groups, const char *instance, int cores) {
    const char *underscore = strrchr(instance, '_'), *policy = "";
    size_t size = underscore ? (size_t)(underscore - instance) : 0;
    for (const Json *group = groups ? groups->first : NULL; group; group = group->next) {
        const char *name = json_text(group, "name", "");
        if (strlen(name) == size && strncmp(name, instance, size) == 0) {
            policy = json_text(group, "host_policy", "");
        }
    }
    long long sharing = 0;
    for (const Json *group = groups ? groups->first : NULL; group; group = group->next) {
        long long count = 1;
        json_whole(json_member(group, "count"), &count);
        if (strcmp(json_text(group, "kind", ""), "KIND_GPU") != 0 &&
            strcmp(json_text(group, "host_policy", ""), policy) == 0) {
            sharing += count > 1 ? count : 1;
        }
    }
    long long each = cores / (sharing > 1 ? sharing : 1);
    return each > 1 ? (int)each : 1;
}

static char *model_file(const Json *config, const char *folder) {
    const char *name = json_text(config, "default_model_filename", "");
    size_t room = strlen(folder) + strlen(name) + 2 * sizeof DEFAULT_FILENAME + 2;
    char *path = malloc(room);
    struct stat found;
    if (!path) {
        return NULL;
    }
    snprintf(path, room, "%s/%s", folder, *name ? name : DEFAULT_FILENAME);
    if (stat(path, &found) == 0 && S_ISDIR(found.st_mode)) {
        /* A model with external weights: a folder of that name. */
        strcat(path, "/" DEFAULT_FILENAME);
    }
    if (stat(path, &found) != 0 || !S_ISREG(found.st_mode)) {
        free(path);
        return NULL;
    }
    return path;
}

static bool fill(Plan *plan, const Json *config, const char *instance, const char *folder, int cores, Reason *why) {
    const Json *optimization = json_member(config, "optimization"), *parameters = json_member(config, "parameters");
    const Json *state = json_member(json_member(config, "sequence_batching"), "state");
    long long rows = 0;
    json_whole(json_member(config, "max_batch_size"), &rows);
    plan->batches = rows > 0;
    if (!says_only(config, CONFIG_FIELDS, "", why) || !says_only(optimization, OPTIMIZATION_FIELDS, "", why) ||
        !read_parameters(parameters, plan, why) ||
        !read_tensors(json_member(config, "input"), plan->batches, &plan->inputs, &plan->input_count, why) ||
        !read_tensors(json_member(config, "output"), plan->batches, &plan->outputs, &plan->output_count, why)) {
        return false;
    }
    if (state && state->first) {
        reason_set(why, "sequence_batching.state");
        return false;
    }
    plan->graph_level = graph_level(optimization);
    if (plan->intra_threads == 0) {
        plan->intra_threads = threads(json_member(config, "instance_group"), instance, cores);
    }
    plan->name = strdup(instance);
    plan->file = model_file(config, folder);
    if (!plan->name || !plan->file) {
        reason_set(why, "there is no model file");
        return false;
    }
    return true;
}

Plan *plan_make(const Json *config, const char *instance, const char *folder, int cores, Reason *why) {
    Plan *plan = calloc(1, sizeof *plan);
    if (!plan) {
        reason_set(why, "out of memory");
        return NULL;
    }
    if (!fill(plan, config, instance, folder, cores, why)) {
        plan_free(plan);
        return NULL;
    }
    return plan;
}

static void free_tensors(Tensor *tensors, size_t count) {
    for (size_t index = 0; index < count; index++) {
        free(tensors[index].name);
        free(tensors[index].dims);
    }
    free(tensors);
}

void plan_free(Plan *plan) {
    if (plan) {
        free_tensors(plan->inputs, plan->input_count);
        free_tensors(plan->outputs, plan->output_count);
        free(plan->name);
        free(plan->file);
        free(plan);
    }
}
