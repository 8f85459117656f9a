#include "memory.h"

#include <dlfcn.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define ALIGNMENT 64
/* cudaMemcpyDefault: CUDA sees from the addresses where they lie. */
#define CUDA_BY_ADDRESS 4

bool memory_is_aligned(const void *place) { return (uintptr_t)place % MEMORY_ALIGNMENT == 0; }

void *memory_reserve(Memory *memory, size_t size) {
    if (size > memory->size || !memory->data) {
        memory_free(memory);
        size_t room = (size / ALIGNMENT + 1) * ALIGNMENT;
        memory->data = room > size ? aligned_alloc(ALIGNMENT, room) : NULL;
        memory->size = memory->data ? room : 0;
    }
    return memory->data;
}

void memory_free(Memory *memory) {
    free(memory->data);
    *memory = (Memory){0};
}

bool memory_copy(void *to, const void *from, size_t size, bool on_gpu) {
    if (on_gpu) {
        /* tritonserver itself is linked with CUDA's runtime. */
        int (*copy)(void *, const void *, size_t, int) = NULL, (*wait)(void *stream) = NULL;
        *(void **)&copy = dlsym(RTLD_DEFAULT, "cudaMemcpy");
        *(void **)&wait = dlsym(RTLD_DEFAULT, "cudaStreamSynchronize");
        /* From memory that is not page-locked, the copy to a GPU may go on when its call is over. */
        return copy && wait && copy(to, from, size, CUDA_BY_ADDRESS) == 0 && wait(NULL) == 0;
    }
    if (size) {
        memcpy(to, from, size);
    }
    return true;
}
