/* One session of onnxruntime, made for a plan. */
#ifndef SESSION_H
#define SESSION_H

#include "ort.h"
#include "plan.h"

typedef struct {
    const Ort *ort;
    OrtSession *handle;
    OrtMemoryInfo *memory;
} Session;

/* Opens the model of a plan, and notes in its outputs which shapes are known. False with the reason where it does not
 * open, or does not fit the plan; the session must be closed in either case. */
bool session_open(Session *session, const Ort *ort, Plan *plan, Reason *why);
void session_close(Session *session);

/* A tensor over memory that stays the caller's. `shape` has as many sizes as the tensor's rank. */
OrtStatus *session_wrap(const Session *session, const Tensor *tensor, const int64_t *shape, size_t rank, void *data,
                        size_t size, OrtValue **value);

#endif
