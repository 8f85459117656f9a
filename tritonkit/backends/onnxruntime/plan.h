/* What a model configuration asks of one instance on the CPU, or why a process of its own has to serve it. */
#ifndef PLAN_H
#define PLAN_H

#include "json.h"
#include "reason.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* An element type: Triton's name and number, onnxruntime's number, and bytes. */
typedef struct {
    const char *name;
    int triton;
    int onnx;
    size_t size;
    /* An input of fewer bytes is copied. What an input counts or points at, a kernel checks before it goes there, and a
     * client could change it in between where it lies in shared memory. */
    uint64_t read_in_place;
} Type;

/* An input or output. Its dims have the batch first, in a model that batches; -1 where a size varies. */
typedef struct {
    char *name;
    const Type *type;
    size_t rank;
    int64_t *dims;
    /* Of an output: whether the model itself says every size but the number of rows, and it can be written where one
     * wants it. */
    bool known;
    /* Of an input: whether the model gives it back as an output. */
    bool returned;
} Tensor;

typedef struct {
    char *name;
    char *file;
    bool batches;
    Tensor *inputs;
    size_t input_count;
    Tensor *outputs;
    size_t output_count;
    int intra_threads;
    int inter_threads;
    int execution_mode;
    int graph_level;
} Plan;

/* The plan for an instance of this name, whose version has this folder; NULL with the reason where there is none.
 * What is wrong with a configuration is a reason too: the Python-based backend then refuses it in its own words.
 * `cores` is how many the instance may use. Free it with plan_free. */
Plan *plan_make(const Json *config, const char *instance, const char *folder, int cores, Reason *why);
void plan_free(Plan *plan);

#endif
