/* DynamicQuantizeMatMul by ours: a matrix of weights in eight bits as it is multiplied.  See products.c. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "operators.h"

#ifdef WIDE_512
enum { VECTORS = 4, TOGETHER = 6 /* rows that are multiplied at a time */ };
#else
enum { VECTORS = 2, TOGETHER = 3, RUN = 3 /* quads whose products are added in 16 bits: see products_arranged.c */ };
#endif
enum {
    COLUMNS = VECTORS * LANES, /* that are multiplied together */
    SOME = 16,                 /* columns that are read together */
    BYTE = 255                 /* the greatest activation */
};

/* COLUMNS columns: quads of weights, four of each column, and, where not each follows on the last, at which place of a
 * row the four activations are that each is multiplied by. */
typedef struct { int8_t *weights; uint16_t *places; int count; } block;

typedef struct {
    int length, columns, blocks;
    int greatest;            /* activation */
    const float *scales;     /* of columns; the node's own */
    int shared;              /* whether there is one scale for all */
    int32_t *sums;           /* of columns' weights */
    block of[];
} matrix;

/* The matrix of a node's constants, for `release_matrix`; NULL where there is no memory, or `why` else. */
matrix *matrix_of(const ort_function *table, const ort_info *info, const char **why);
void release_matrix(void *matrix);

/* Makes the blocks of a matrix and its sums; whether there was memory for them. */
int make_blocks(const int8_t *weights, matrix *to);

/* Reads a quad of SOME columns, four weights of each; what there is not of them is 0. */
void read_quad(const int8_t *weights, const matrix *of, int first, int quad, __m128i to[4]);

#endif
