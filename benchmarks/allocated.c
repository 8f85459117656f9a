/* Loaded into tritonserver: what its C library has handed out and not got back, in bytes, twice a second into the
 * file that ALLOCATED names. Unlike what the kernel counts, it does not hold what was freed and is kept. */
#include <errno.h>
#include <malloc.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static void *watch(void *path) {
    char fresh[4096];
    snprintf(fresh, sizeof fresh, "%s.new", (const char *)path);
    for (;;) {
        struct mallinfo2 now = mallinfo2();
        FILE *file = fopen(fresh, "w");
        if (file) {
            fprintf(file, "%zu\n", now.uordblks + now.hblkhd);
            fclose(file);
            rename(fresh, path);
        }
        usleep(500000);
    }
    return NULL;
}

__attribute__((constructor)) static void begin(void) {
    char *path = getenv("ALLOCATED");
    pthread_t thread;
    /* The stubs inherit the environment. */
    if (path && !strcmp(program_invocation_short_name, "tritonserver")) {
        pthread_create(&thread, NULL, watch, path);
    }
}
