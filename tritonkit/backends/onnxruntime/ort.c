#include "ort.h"

#include <dlfcn.h>
#include <limits.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>

/* A link to the library of the onnxruntime that the server's Python imports. */
#define LIBRARY "libonnxruntime.so"

typedef void (*Function)(void);
typedef struct {
    const Function *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static Ort loaded;

bool ort_is_done(const Ort *ort, OrtStatus *status, Reason *why) {
    if (!status) {
        return true;
    }
    reason_set(why, "%s", ort->GetErrorMessage(status));
    ort->ReleaseStatus(status);
    return false;
}

static bool load(const char *folder, Reason *why) {
    char link[PATH_MAX], path[PATH_MAX];
    if (snprintf(link, sizeof link, "%s/%s", folder, LIBRARY) >= (int)sizeof link || !realpath(link, path)) {
        reason_set(why, "there is no " LIBRARY);
        return false;
    }
    /* It is never unloaded: its threads and their memory may outlive the last session. */
    void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    const OrtApiBase *(*base)(void) = NULL;
    if (library) {
        *(void **)&base = dlsym(library, "OrtGetApiBase");
    }
    const Function *table = base ? base()->GetApi(ORT_API_VERSION) : NULL;
    if (library) {
        dlclose(library);
    }
    if (!table) {
        const char *said = library ? NULL : dlerror();
        reason_set(why, "%s", said ? said : "its " LIBRARY " has another C API");
        return false;
    }
#define ORT_FILL(place, result, name, arguments) loaded.name = (result(*) arguments)table[place];
    ORT_FUNCTIONS(ORT_FILL)
#undef ORT_FILL
    return ort_is_done(&loaded, loaded.CreateEnv(ORT_LOG_WARNING, "onnxruntime", &loaded.env), why);
}

const Ort *ort_load(const char *folder, Reason *why) {
    pthread_mutex_lock(&lock);
    const Ort *found = loaded.env || load(folder, why) ? &loaded : NULL;
    pthread_mutex_unlock(&lock);
    return found;
}

void ort_unload(void) {
    pthread_mutex_lock(&lock);
    if (loaded.env) {
        loaded.ReleaseEnv(loaded.env);
        loaded.env = NULL;
    }
    pthread_mutex_unlock(&lock);
}
