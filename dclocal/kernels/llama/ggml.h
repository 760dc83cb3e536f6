/* ggml's, as far as they are read here (ggml.h and ggml-cpu-impl.h). */

#ifndef GGML_H
#define GGML_H

#include <stddef.h>
#include <stdint.h>

typedef struct tensor {
    int type;
    void *buffer;
    int64_t ne[4];
    size_t nb[4];
    int op;
    int32_t op_params[16], flags;
    struct tensor *src[10], *view_src;
    size_t view_offs;
    char *data;
} tensor;
typedef struct { int thread, threads; size_t size; void *data, *pool; _Bool reference; } parameters;
enum { FLOAT32 = 0, FLOAT16 = 1, BYTES = 8 };

#endif
