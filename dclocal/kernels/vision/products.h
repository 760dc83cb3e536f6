/* A matrix of weights in eight bits as it is multiplied, of which products.c tells. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "operators.h"

enum {
    COLUMNS = 16, /* that are multiplied together */
    RUN = 3       /* quads of a row whose products are added in 16 bits: of four, 6 % of places would be empty */
};

/* Sixteen columns: their quads of weights, and where in a row the quad is that each is multiplied by; zeros fill up
 * runs. */
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

#endif
