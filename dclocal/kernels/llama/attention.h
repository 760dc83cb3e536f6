/* Attention of queries that have come side by side or one by one: what both have in common.  See attention.c. */

#ifndef ATTENTION_H
#define ATTENTION_H

#include "../wide.h"
#include "ggml.h"

#include <float.h>

enum {
    FEW = 4,         /* queries that are taken one by one */
    KEYS = 32,       /* that are unpacked at a time */
    WIDTH = 256,     /* of a head at most */
    NOTHING = 0xFC00 /* in a mask: float16's negative infinity */
};

/* Heads of `width` numbers, of which `shared` have the same keys and values.  In a part, which is a sequence and the
 * heads that share keys, each query of each head has a place; those of one query stand together. */
typedef struct { const tensor *queries, *keys, *values, *mask, *result; int width, shared, places; float scale; } work;
typedef struct { int sequence, head; } part;

#define HIDDEN __attribute__((visibility("hidden")))
enum { VECTORS = 2, GROUPS = 3, TAKEN = GROUPS * VECTORS * LANES }; /* places that are taken at once, of many */
HIDDEN void attend_many(const work *work, part part, int place);
HIDDEN void attend_few(const work *work, part part);

INLINE const float *query_at(const work *work, part part, int place) {
    const int head = part.head * work->shared + place % work->shared;
    return (const float *)(work->queries->data + place / work->shared * work->queries->nb[1] +
                           head * work->queries->nb[2] + part.sequence * work->queries->nb[3]);
}

INLINE float *result_at(const work *work, part part, int place) {
    const int head = part.head * work->shared + place % work->shared;
    return (float *)(work->result->data + head * work->result->nb[1] + place / work->shared * work->result->nb[2] +
                     part.sequence * work->result->nb[3]);
}

INLINE const char *mask_at(const work *work, part part, int place, int key) {
    return work->mask->data + place / work->shared * work->mask->nb[1] +
           part.sequence % work->mask->ne[3] * work->mask->nb[3] + 2 * key;
}

/* e to the power of what is not greater than 0; 0 below -87, where float32 ends. */
INLINE floats exponential(floats of) {
    const floats rounding = WIDE(set1_ps)(12582912.0f); /* added to it, a number has no room for a fraction */
    const floats power = WIDE(fmadd_ps)(of, WIDE(set1_ps)(1.44269504f), rounding);
    const floats whole = WIDE(sub_ps)(power, rounding);
    const floats near = WIDE(fnmadd_ps)(whole, WIDE(set1_ps)(355.0f / 512), of); /* the logarithm of 2 in two parts */
    const floats rest = WIDE(fmadd_ps)(whole, WIDE(set1_ps)(2.12194440e-4f), near);
    static const float factors[] = {1.0f / 720, 1.0f / 120, 1.0f / 24, 1.0f / 6, 0.5f, 1, 1};
    floats sum = WIDE(set1_ps)(factors[0]);
    for (int i = 1; i < 7; i++)
        sum = WIDE(fmadd_ps)(sum, rest, WIDE(set1_ps)(factors[i]));
    const integers result = WIDE(add_epi32)(AS_INTEGERS(sum), WIDE(slli_epi32)(AS_INTEGERS(power), 23));
    return WHERE_GREATER(AS_FLOATS(result), of, WIDE(set1_ps)(-87));
}

/* KEYS rows of float16, from `key` on, to rows of `width` numbers; has as many that follow be fetched meanwhile. */
INLINE void unpack(const tensor *from, part part, int key, int width, float *to) {
    const char *rows = from->data + key * from->nb[1] + part.head * from->nb[2] + part.sequence * from->nb[3];
    for (int k = 0; k < KEYS; k++) {
        for (int i = 0; i < width; i += 32)
            _mm_prefetch(rows + (k + KEYS) * from->nb[1] + 2 * i, _MM_HINT_T0);
        for (int i = 0; i < width; i += LANES)
            WIDE(storeu_ps)(to + k * width + i, LOAD_HALVES(rows + k * from->nb[1] + 2 * i));
    }
}

enum { NONE, SOME, ALL };

/* Of KEYS keys, those that `count` places from `place` on see: NONE, ALL with nothing added to scores, or SOME. */
INLINE int seen(const work *work, part part, int place, int count, int key) {
    const __m256i nothing = _mm256_set1_epi16((short)NOTHING);
    int all = 1, none = 1;
    const char *row = NULL;
    for (int i = 0; i < count; i++) {
        const char *next = mask_at(work, part, place + i, key);
        for (int half = 0; half < 2 && next != row; half++) {
            const __m256i these = _mm256_loadu_si256((const __m256i *)next + half);
            all &= _mm256_testz_si256(these, these);
            none &= _mm256_movemask_epi8(_mm256_cmpeq_epi16(these, nothing)) == -1;
        }
        row = next;
    }
    return all ? ALL : none ? NONE : SOME;
}

#endif
