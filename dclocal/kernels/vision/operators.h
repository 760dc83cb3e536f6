/* Operators of ONNX Runtime by functions of ours: what operators.c has of its tensors, and what each operator tells it.
 *
 * An operator that is registered under a domain and name that ONNX Runtime has itself takes its place.  All of them
 * compute in float32 and have one output. */

#ifndef OPERATORS_H
#define OPERATORS_H

#include "../wide.h"
#include "onnxruntime.h"

#include <stdlib.h>

enum { RANK = 8 /* the most that a tensor may have here */ };

/* One computation; `failed` is the first error of ONNX Runtime's in it. */
typedef struct { const ort_function *table; ort_context *context; ort_status *failed; } computation;

typedef struct { int64_t length[RANK]; size_t rank; const void *data; } tensor;

/* How many numbers there are of the first `rank` dimensions. */
static inline int64_t count_of(const tensor *of, size_t rank) {
    int64_t count = 1;
    for (size_t i = 0; i < rank; i++)
        count *= of->length[i];
    return count;
}

/* The input at `place`; no data where it is left out. */
tensor input_of(computation *in, size_t place);

/* The data of the output, which has this shape. */
float *output_of(computation *in, const int64_t *length, size_t rank);

/* Calls `part` with `what` and each number below `count`, by ONNX Runtime's threads as they come to it. */
void in_parallel(computation *in, void (*part)(void *, size_t), size_t count, void *what);

/* A constant input of a node that is being made; no data where it is not constant or is left out. */
tensor constant_of(const ort_function *table, const ort_info *info, size_t place);

float float_of(const ort_function *table, const ort_info *info, const char *name, float otherwise);
int64_t integer_of(const ort_function *table, const ort_info *info, const char *name, int64_t otherwise);

/* Memory for vectors; NULL where there is none. */
static inline void *room(size_t bytes) { return aligned_alloc(64, (bytes + 63) / 64 * 64); }

/* `make` returns what `calculate` and `release` get, or NULL and why it cannot be done by ours. */
typedef struct {
    ort_operator interface; /* first: it is what ONNX Runtime has of it */
    const char *name;
    const int *types, *kinds; /* of its inputs */
    size_t inputs;
    void *(*make)(const ort_function *, const ort_info *, const char **why);
    void (*release)(void *);
    const char *(*calculate)(void *, computation *); /* returns what is wrong, or NULL */
} own;

extern own attention, bias_gelu;
#if !defined(__AMX_INT8__) && (defined(WIDE_512) || !defined(__AVXVNNI__))
#define WITH_PRODUCTS /* with AMX ONNX Runtime's are in tiles; with VNNI of 256 bits alone nobody has compared them */
extern own products;
#endif

#endif
