/* onnxruntime's C API, of which a wheel brings the library and no header. It is a table of functions that only grows:
 * a function keeps its place. Those used here are declared by their places. */
#ifndef ORT_H
#define ORT_H

#include "reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* The version of the table that has the last of them. */
#define ORT_API_VERSION 5

typedef struct OrtStatus OrtStatus;
typedef struct OrtEnv OrtEnv;
typedef struct OrtSession OrtSession;
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtRunOptions OrtRunOptions;
typedef struct OrtAllocator OrtAllocator;
typedef struct OrtMemoryInfo OrtMemoryInfo;
typedef struct OrtValue OrtValue;
typedef struct OrtTypeInfo OrtTypeInfo;
typedef struct OrtShape OrtShape;

enum { ORT_LOG_WARNING = 2 };
enum { ORT_DEVICE_ALLOCATOR = 0, ORT_MEMORY_DEFAULT = 0 };

/* Place, result, name, arguments. */
#define ORT_FUNCTIONS(F)                                                                                             \
    F(2, const char *, GetErrorMessage, (const OrtStatus *))                                                         \
    F(3, OrtStatus *, CreateEnv, (int level, const char *id, OrtEnv **))                                             \
    F(7, OrtStatus *, CreateSession, (const OrtEnv *, const char *path, const OrtSessionOptions *, OrtSession **))   \
    F(9, OrtStatus *, Run,                                                                                           \
      (OrtSession *, const OrtRunOptions *, const char *const *inputs, const OrtValue *const *, size_t,              \
       const char *const *outputs, size_t, OrtValue **))                                                             \
    F(10, OrtStatus *, CreateSessionOptions, (OrtSessionOptions **))                                                 \
    F(13, OrtStatus *, SetSessionExecutionMode, (OrtSessionOptions *, int))                                          \
    F(23, OrtStatus *, SetSessionGraphOptimizationLevel, (OrtSessionOptions *, int))                                 \
    F(24, OrtStatus *, SetIntraOpNumThreads, (OrtSessionOptions *, int))                                             \
    F(25, OrtStatus *, SetInterOpNumThreads, (OrtSessionOptions *, int))                                             \
    F(30, OrtStatus *, SessionGetInputCount, (const OrtSession *, size_t *))                                         \
    F(31, OrtStatus *, SessionGetOutputCount, (const OrtSession *, size_t *))                                        \
    F(33, OrtStatus *, SessionGetInputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **))                        \
    F(34, OrtStatus *, SessionGetOutputTypeInfo, (const OrtSession *, size_t, OrtTypeInfo **))                       \
    F(36, OrtStatus *, SessionGetInputName, (const OrtSession *, size_t, OrtAllocator *, char **))                   \
    F(37, OrtStatus *, SessionGetOutputName, (const OrtSession *, size_t, OrtAllocator *, char **))                  \
    F(49, OrtStatus *, CreateTensorWithDataAsOrtValue,                                                               \
      (const OrtMemoryInfo *, void *, size_t, const int64_t *shape, size_t rank, int type, OrtValue **))             \
    F(51, OrtStatus *, GetTensorMutableData, (OrtValue *, void **))                                                  \
    F(55, OrtStatus *, CastTypeInfoToTensorInfo, (const OrtTypeInfo *, const OrtShape **))                           \
    F(60, OrtStatus *, GetTensorElementType, (const OrtShape *, int *))                                              \
    F(61, OrtStatus *, GetDimensionsCount, (const OrtShape *, size_t *))                                             \
    F(62, OrtStatus *, GetDimensions, (const OrtShape *, int64_t *, size_t))                                         \
    F(65, OrtStatus *, GetTensorTypeAndShape, (const OrtValue *, OrtShape **))                                       \
    F(69, OrtStatus *, CreateCpuMemoryInfo, (int allocator, int memory, OrtMemoryInfo **))                           \
    F(76, OrtStatus *, AllocatorFree, (OrtAllocator *, void *))                                                      \
    F(78, OrtStatus *, GetAllocatorWithDefaultOptions, (OrtAllocator **))                                            \
    F(92, void, ReleaseEnv, (OrtEnv *))                                                                              \
    F(93, void, ReleaseStatus, (OrtStatus *))                                                                        \
    F(94, void, ReleaseMemoryInfo, (OrtMemoryInfo *))                                                                \
    F(95, void, ReleaseSession, (OrtSession *))                                                                      \
    F(96, void, ReleaseValue, (OrtValue *))                                                                          \
    F(98, void, ReleaseTypeInfo, (OrtTypeInfo *))                                                                    \
    F(99, void, ReleaseTensorTypeAndShapeInfo, (OrtShape *))                                                         \
    F(100, void, ReleaseSessionOptions, (OrtSessionOptions *))                                                       \
    F(130, OrtStatus *, AddSessionConfigEntry, (OrtSessionOptions *, const char *key, const char *value))

typedef struct {
#define ORT_MEMBER(place, result, name, arguments) result(*name) arguments;
    ORT_FUNCTIONS(ORT_MEMBER)
#undef ORT_MEMBER
    OrtEnv *env;
} Ort;

/* The library that lies in this folder, loaded once for the process; NULL with the reason where it cannot be. */
const Ort *ort_load(const char *folder, Reason *why);
/* Gives back what ort_load has made, when no session is left. */
void ort_unload(void);

/* Whether a call succeeded; its status is released, with its words for a reason. */
bool ort_is_done(const Ort *ort, OrtStatus *status, Reason *why);

#endif
