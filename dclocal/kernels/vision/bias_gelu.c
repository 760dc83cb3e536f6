/* BiasGelu: x / 2 * (1 + erf(x / sqrt(2))) of rows to which a bias is added. */

#include "operators.h"

#include <string.h>

enum { ROWS = 16 /* that one thread takes at a time */ };

typedef struct { const float *from, *bias; float *to; size_t rows, columns; } work;

/* The error function to seven digits: x times a quotient of polynomials of its square, fitted up to where float32 has
 * nothing but 1. */
INLINE floats error_function(floats x) {
    static const float above[] = {2.03472994e-6f, 2.87480712e-4f, 3.86837459e-3f,
                                  0.0530606257f,  0.192765127f,   1.12837902f};
    static const float below[] = {3.80706586e-5f, 1.18812711e-3f, 0.0151723895f,
                                  0.115085064f,   0.504165311f,   1};
    const floats end = WIDE(set1_ps)(3.92f);
    x = WIDE(min_ps)(WIDE(max_ps)(x, WIDE(sub_ps)(WIDE(setzero_ps)(), end)), end);
    const floats square = WIDE(mul_ps)(x, x);
    floats upper = WIDE(set1_ps)(above[0]), lower = WIDE(set1_ps)(below[0]);
    for (int i = 1; i < 6; i++) {
        upper = WIDE(fmadd_ps)(upper, square, WIDE(set1_ps)(above[i]));
        lower = WIDE(fmadd_ps)(lower, square, WIDE(set1_ps)(below[i]));
    }
    return WIDE(div_ps)(WIDE(mul_ps)(x, upper), lower);
}

INLINE void gelu(const float *from, const float *bias, float *to) {
    const floats x = WIDE(add_ps)(WIDE(loadu_ps)(from), WIDE(loadu_ps)(bias));
    const floats error = error_function(WIDE(mul_ps)(x, WIDE(set1_ps)(0.707106781f)));
    const floats half = WIDE(mul_ps)(x, WIDE(set1_ps)(0.5f));
    WIDE(storeu_ps)(to, WIDE(fmadd_ps)(half, error, half));
}

static void of_rows(void *with, size_t part) {
    const work *work = with;
    const size_t end = (part + 1) * ROWS < work->rows ? (part + 1) * ROWS : work->rows;
    for (size_t row = part * ROWS; row < end; row++) {
        const float *from = work->from + row * work->columns;
        float *to = work->to + row * work->columns;
        size_t i = 0;
        for (; i + LANES <= work->columns; i += LANES)
            gelu(from + i, work->bias + i, to + i);
        const size_t rest = work->columns - i;
        float some[LANES] = {0}, bias[LANES] = {0}, results[LANES];
        memcpy(some, from + i, rest * sizeof *some);
        memcpy(bias, work->bias + i, rest * sizeof *bias);
        gelu(some, bias, results);
        memcpy(to + i, results, rest * sizeof *results);
    }
}

static void *make(const ort_function *table, const ort_info *info, const char **why) {
    (void)table, (void)info, (void)why;
    return malloc(1);
}

static const char *calculate(void *made, computation *in) {
    (void)made;
    const tensor from = input_of(in, 0), bias = input_of(in, 1);
    if (in->failed)
        return NULL;
    if (!from.rank || bias.rank != 1 || bias.length[0] != from.length[from.rank - 1])
        return "a row and its bias have other lengths";
    work work = {
        .from = from.data, .bias = bias.data, .to = output_of(in, from.length, from.rank),
        .rows = count_of(&from, from.rank - 1), .columns = bias.length[0],
    };
    if (!in->failed)
        in_parallel(in, of_rows, (work.rows + ROWS - 1) / ROWS, &work);
    return NULL;
}

static const int types[] = {FLOAT32, FLOAT32}, kinds[] = {REQUIRED, REQUIRED};
own bias_gelu = {
    .name = "BiasGelu", .types = types, .kinds = kinds, .inputs = 2,
    .make = make, .release = free, .calculate = calculate,
};
