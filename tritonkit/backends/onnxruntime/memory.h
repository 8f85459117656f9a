/* Memory that is kept from batch to batch, and copies from and to a GPU's. */
#ifndef MEMORY_H
#define MEMORY_H

#include <stdbool.h>
#include <stddef.h>

typedef struct {
    void *data;
    size_t size;
} Memory;

/* What onnxruntime's own memory, and numpy's, is aligned to at least: its kernels are told nothing less, and elsewhere
 * they add in another order. */
#define MEMORY_ALIGNMENT 16
bool memory_is_aligned(const void *place);

/* At least so many bytes, aligned for any instruction; what was in them is lost. NULL where there are none. */
void *memory_reserve(Memory *memory, size_t size);
void memory_free(Memory *memory);

/* Copies; false where one side is a GPU's memory and CUDA refuses. */
bool memory_copy(void *to, const void *from, size_t size, bool on_gpu);

#endif
