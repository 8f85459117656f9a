/* The library that tritonserver loads as its `onnxruntime` backend. It stands before Triton's Python backend and
 * hands it everything, as if it were not there, but the instances that can run inside tritonserver: those it runs
 * itself. */
#include "instance.h"
#include "json.h"
#include "report.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>

#define EXPORTED __attribute__((visibility("default")))
#define PYTHON_LIBRARY "../python/libtriton_python.so"

#define ENTRY_POINTS(F)                                                                                              \
    F(Initialize, (TRITONBACKEND_Backend *))                                                                         \
    F(Finalize, (TRITONBACKEND_Backend *))                                                                           \
    F(GetBackendAttribute, (TRITONBACKEND_Backend *, TRITONBACKEND_BackendAttribute *))                              \
    F(ModelInitialize, (TRITONBACKEND_Model *))                                                                      \
    F(ModelFinalize, (TRITONBACKEND_Model *))                                                                        \
    F(ModelInstanceInitialize, (TRITONBACKEND_ModelInstance *))                                                      \
    F(ModelInstanceFinalize, (TRITONBACKEND_ModelInstance *))                                                        \
    F(ModelInstanceExecute, (TRITONBACKEND_ModelInstance *, TRITONBACKEND_Request **, uint32_t))

/* The Python backend's own. */
static struct {
#define MEMBER(name, arguments) TRITONSERVER_Error *(*name)arguments;
    ENTRY_POINTS(MEMBER)
#undef MEMBER
} python;

/* glibc's alone. */
extern int malloc_trim(size_t pad) __attribute__((weak));

/* Where this library lies. */
static char folder[PATH_MAX];

/* The instances that run here. Triton makes, ends and executes different ones at the same time. */
static pthread_rwlock_t lock = PTHREAD_RWLOCK_INITIALIZER;
static Instance *instances;

static void keep(Instance *instance) {
    pthread_rwlock_wrlock(&lock);
    instance->next = instances;
    instances = instance;
    pthread_rwlock_unlock(&lock);
}

static Instance *find(TRITONBACKEND_ModelInstance *handle) {
    pthread_rwlock_rdlock(&lock);
    Instance *found = instances;
    while (found && found->handle != handle) {
        found = found->next;
    }
    pthread_rwlock_unlock(&lock);
    return found;
}

static Instance *remove_from(TRITONBACKEND_ModelInstance *handle) {
    pthread_rwlock_wrlock(&lock);
    Instance **link = &instances;
    while (*link && (*link)->handle != handle) {
        link = &(*link)->next;
    }
    Instance *found = *link;
    if (found) {
        *link = found->next;
    }
    pthread_rwlock_unlock(&lock);
    return found;
}

static TRITONSERVER_Error *load_python(void) {
    char path[PATH_MAX + sizeof PYTHON_LIBRARY];
    snprintf(path, sizeof path, "%s/" PYTHON_LIBRARY, folder);
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (!library) {
        return failure("Triton's Python backend does not load: %s", dlerror());
    }
#define LOAD(name, arguments)                                                                                        \
    if (!(*(void **)&python.name = dlsym(library, "TRITONBACKEND_" #name))) {                                        \
        return failure("Triton's Python backend has no TRITONBACKEND_" #name);                                       \
    }
    ENTRY_POINTS(LOAD)
#undef LOAD
    return NULL;
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_Initialize(TRITONBACKEND_Backend *backend) {
    uint32_t major, minor;
    const char *path;
    int type;
    TRITONSERVER_Error *error = TRITONBACKEND_ApiVersion(&major, &minor);
    if (!error && (major != BACKEND_API_MAJOR || minor < BACKEND_API_MINOR)) {
        error = failure("this tritonserver has version %u.%u of the API for backends, which is not supported", major,
                        minor);
    }
    if (!error) {
        error = TRITONBACKEND_BackendArtifacts(backend, &type, &path);
    }
    if (!error) {
        snprintf(folder, sizeof folder, "%s", path);
        error = load_python();
    }
    return error ? error : python.Initialize(backend);
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_Finalize(TRITONBACKEND_Backend *backend) {
    ort_unload();
    /* Not there where Initialize has failed. */
    return python.Finalize ? python.Finalize(backend) : NULL;
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_GetBackendAttribute(TRITONBACKEND_Backend *backend,
                                                               TRITONBACKEND_BackendAttribute *attribute) {
    return python.GetBackendAttribute(backend, attribute);
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_ModelInitialize(TRITONBACKEND_Model *model) {
    return python.ModelInitialize(model);
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_ModelFinalize(TRITONBACKEND_Model *model) {
    return python.ModelFinalize(model);
}

/* The cores that this thread, and so an instance that it makes, may use. */
static int cores(void) {
    int found = 0;
    /* The kernel refuses a set that is too small for its cores. */
    for (int most = CPU_SETSIZE; !found && most <= 1024 * CPU_SETSIZE; most *= 2) {
        cpu_set_t *set = CPU_ALLOC(most);
        if (set && sched_getaffinity(0, CPU_ALLOC_SIZE(most), set) == 0) {
            found = CPU_COUNT_S(CPU_ALLOC_SIZE(most), set);
        }
        CPU_FREE(set);
    }
    return found > 1 ? found : 1;
}

static TRITONSERVER_Error *read_config(TRITONBACKEND_Model *model, Json **config) {
    TRITONSERVER_Message *message;
    const char *text;
    size_t size;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelConfig(model, 1, &message);
    if (!error) {
        error = TRITONSERVER_MessageSerializeToJson(message, &text, &size);
        *config = error ? NULL : json_read(text, size);
        complain("a configuration", TRITONSERVER_MessageDelete(message));
    }
    return error;
}

static TRITONSERVER_Error *plan_from(TRITONBACKEND_Model *model, const char *name, Plan **plan, Reason *why) {
    const char *path;
    int type;
    uint64_t version;
    char place[PATH_MAX];
    TRITONSERVER_Error *error = TRITONBACKEND_ModelRepository(model, &type, &path);
    if (!error) {
        error = TRITONBACKEND_ModelVersion(model, &version);
    }
    Json *config = NULL;
    if (!error) {
        error = read_config(model, &config);
    }
    if (!error && snprintf(place, sizeof place, "%s/%llu", path, (unsigned long long)version) < (int)sizeof place) {
        *plan = plan_make(config, name, place, cores(), why);
    }
    json_free(config);
    return error;
}

/* Makes an instance that runs here; where it cannot, says why. */
static TRITONSERVER_Error *make(TRITONBACKEND_ModelInstance *handle, const char *name, Instance **made, Reason *why) {
    TRITONBACKEND_Model *model;
    Plan *plan = NULL;
    int kind = KIND_CPU;
    bool passive = false;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelInstanceKind(handle, &kind);
    if (!error) {
        error = TRITONBACKEND_ModelInstanceIsPassive(handle, &passive);
    }
    if (!error) {
        error = TRITONBACKEND_ModelInstanceModel(handle, &model);
    }
    if (error || kind != KIND_CPU || passive) {
        reason_set(why, passive ? "it is passive" : "it is not KIND_CPU");
        return error;
    }
    reason_set(why, "its configuration cannot be read");
    error = plan_from(model, name, &plan, why);
    const Ort *ort = !error && plan ? ort_load(folder, why) : NULL;
    if (!ort) {
        plan_free(plan);
        return error;
    }
    *made = instance_new(handle, plan, ort, why);
    return NULL;
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_ModelInstanceInitialize(TRITONBACKEND_ModelInstance *handle) {
    const char *name;
    Reason why;
    Instance *instance = NULL;
    TRITONSERVER_Error *error = TRITONBACKEND_ModelInstanceName(handle, &name);
    if (!error) {
        error = make(handle, name, &instance, &why);
    }
    if (error) {
        return error;
    }
    if (!instance) {
        say(LOG_INFO, "%s: runs in a process of its own: %s", name, why.text);
        return python.ModelInstanceInitialize(handle);
    }
    say(LOG_INFO, "%s: runs inside tritonserver", name);
    keep(instance);
    return NULL;
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_ModelInstanceFinalize(TRITONBACKEND_ModelInstance *handle) {
    Instance *instance = remove_from(handle);
    if (!instance) {
        return python.ModelInstanceFinalize(handle);
    }
    instance_free(instance);
    if (malloc_trim) {
        /* `up` has the C library keep what is freed, for the next request: the weights of a model are no request's. */
        malloc_trim(0);
    }
    return NULL;
}

EXPORTED TRITONSERVER_Error *TRITONBACKEND_ModelInstanceExecute(TRITONBACKEND_ModelInstance *handle,
                                                                TRITONBACKEND_Request **requests, uint32_t count) {
    Instance *instance = find(handle);
    return instance ? instance_execute(instance, requests, count)
                    : python.ModelInstanceExecute(handle, requests, count);
}
