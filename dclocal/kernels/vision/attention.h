/* Attention in 16 bits: keys and values as they are multiplied, and how numbers become so narrow.  See attention.c. */

#ifndef ATTENTION_H
#define ATTENTION_H

#include "operators.h"

#include <float.h>
#include <math.h>
#include <string.h>

#ifdef WIDE_512
enum { VECTORS = 4 };
#else
enum { VECTORS = 2 };
#endif
enum {
    COLUMNS = VECTORS * LANES, /* of keys, or of a value's numbers, that are multiplied together */
    PART = 2 * LANES,    /* that become narrow together */
    WIDTH = 256,         /* the most numbers of a head */
    LIMIT = 32700,       /* of a query's and a key's numbers, */
    LENGTH = 46200,      /* and of the root of the sum of their squares: LENGTH * LENGTH < 2 ^ 31 */
    PROBABILITY = 32767,
    RUN = 16,            /* pairs of keys whose values are added in 32 bits */
    VALUE = 2047         /* 2 * RUN * PROBABILITY * VALUE < 2 ^ 31 */
};

/* A head's keys and values in pairs, and what 1 stands for, of each key and of each of a value's numbers. */
typedef struct { int32_t *keys, *values; float *key_scales, *value_scales; } packed;

typedef struct {
    const float *queries, *keys, *values;
    float *result;
    int64_t query_count, key_count, heads;
    int width, value_width, pairs;              /* of a head; pairs of a key's numbers */
    int blocks, value_blocks;                   /* of COLUMNS keys, and of as many of a value's numbers */
    float scale;
    packed *packed;
    int failed;
} work;

/* Gives what is packed of all heads a place in one piece of memory, which is returned; NULL where there is none. */
char *lay_out(work *work, size_t heads);

/* Packs keys and values of one head of all heads of the batch. */
void pack(void *work, size_t head);

INLINE floats magnitude(floats of) { return AS_FLOATS(AND(AS_INTEGERS(of), WIDE(set1_epi32)(0x7FFFFFFF))); }

INLINE float greatest(floats of) {
    float each[LANES], most;
    WIDE(storeu_ps)(each, of);
    most = each[0];
    for (int i = 1; i < LANES; i++)
        most = each[i] > most ? each[i] : most;
    return most;
}

/* Two vectors of whole numbers as one row of 16 bits. */
INLINE void store_narrow(int16_t *to, integers first, integers second) {
#ifdef WIDE_512
    _mm256_storeu_si256((__m256i *)to, _mm512_cvtepi32_epi16(first));
    _mm256_storeu_si256((__m256i *)to + 1, _mm512_cvtepi32_epi16(second));
#else
    STORE(to, _mm256_permute4x64_epi64(_mm256_packs_epi32(first, second), 0xD8));
#endif
}

/* `count` numbers, made up to PART by zeros, times `factors`, as whole numbers. */
INLINE void narrow(const float *from, int count, const floats factors[2], int16_t *to) {
    float some[PART] = {0};
    if (count < PART)
        from = memcpy(some, from, (count < 0 ? 0 : count) * sizeof *some);
    integers whole[2];
    for (int v = 0; v < 2; v++)
        whole[v] = WIDE(cvtps_epi32)(WIDE(mul_ps)(factors[v], WIDE(loadu_ps)(from + v * LANES)));
    store_narrow(to, whole[0], whole[1]);
}

/* A row of `count` numbers, at most WIDTH, as whole ones of at most LIMIT, with zeros behind; returns what 1 stands
 * for.  As a vector it is no longer than LENGTH, so that no product of two such rows is over 2 ^ 31; sums may be on the
 * way. */
INLINE float narrow_row(const float *from, int count, int16_t *to) {
    floats most = WIDE(set1_ps)(FLT_MIN), squares = WIDE(setzero_ps)();
    float row[WIDTH + PART];
    if (count % PART) { /* made up by zeros */
        memcpy(row, from, count * sizeof *row);
        memset(row + count, 0, PART * sizeof *row);
        from = row;
    }
    for (int i = 0; i < count; i += LANES) {
        const floats numbers = WIDE(loadu_ps)(from + i);
        most = WIDE(max_ps)(most, magnitude(numbers));
        squares = WIDE(fmadd_ps)(numbers, numbers, squares);
    }
    float each[LANES], total = 0;
    WIDE(storeu_ps)(each, squares);
    for (int i = 0; i < LANES; i++)
        total += each[i];
    const float by_most = LIMIT / greatest(most), by_length = LENGTH / sqrtf(total + FLT_MIN);
    const float factor = by_most < by_length ? by_most : by_length;
    const floats factors[2] = {WIDE(set1_ps)(factor), WIDE(set1_ps)(factor)};
    for (int i = 0; i < count; i += PART)
        narrow(from + i, PART, factors, to + i);
    return 1 / factor;
}

#endif
