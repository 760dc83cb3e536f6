/* Attention of many queries: they stand side by side in vectors.  See attention.c. */

#include "attention.h"

#include <string.h>

enum {
    QUERIES = VECTORS * LANES, /* side by side: a group, of which GROUPS have keys and values unpacked once */
    TOGETHER = LANES / 2       /* rows that are multiplied at a time, as many as registers hold */
};

/* A group's queries and sums of values, number by number of a head; of each place the greatest score, and the total of
 * what is e to the power of scores less that. */
typedef struct { floats queries[WIDTH][VECTORS], sums[WIDTH][VECTORS], greatest[VECTORS], total[VECTORS]; } group;

/* Eight rows of eight numbers as columns, `stride` numbers apart. */
INLINE void transpose(const float *const from[8], float *to, size_t stride) {
    __m256 pairs[8], mixed[8]; /* rows i and i + 4 side by side, of each the first four, then the others */
    for (int i = 0; i < 8; i++) {
        const float *upper = from[i % 4] + i / 4 * 4, *lower = from[i % 4 + 4] + i / 4 * 4;
        pairs[i] = _mm256_insertf128_ps(_mm256_castps128_ps256(_mm_loadu_ps(upper)), _mm_loadu_ps(lower), 1);
    }
    for (int i = 0; i < 8; i += 2) {
        mixed[i] = _mm256_unpacklo_ps(pairs[i], pairs[i + 1]);
        mixed[i + 1] = _mm256_unpackhi_ps(pairs[i], pairs[i + 1]);
    }
    for (int i = 0; i < 8; i += 2) {
        const __m256 first = mixed[i / 4 * 4 + i % 4 / 2], second = mixed[i / 4 * 4 + i % 4 / 2 + 2];
        _mm256_storeu_ps(to + i * stride, _mm256_shuffle_ps(first, second, 0x44));
        _mm256_storeu_ps(to + (i + 1) * stride, _mm256_shuffle_ps(first, second, 0xEE));
    }
}

/* `to` [count, VECTORS] times `factor`, or 0 without one, plus `left` [count, length], whose rows lie `row` and columns
 * `column` numbers apart, times `right` [length, VECTORS]. */
INLINE void multiply(const float *left, size_t row, size_t column, int count, int length,
                     const floats (*right)[VECTORS], const floats *factor, floats (*to)[VECTORS]) {
    for (int first = 0; first < count; first += TOGETHER) {
        floats sums[TOGETHER][VECTORS];
        for (int i = 0; i < TOGETHER; i++)
            for (int v = 0; v < VECTORS; v++)
                sums[i][v] = factor ? WIDE(mul_ps)(to[first + i][v], factor[v]) : WIDE(setzero_ps)();
        for (int l = 0; l < length; l++)
#pragma GCC unroll 8
            for (int i = 0; i < TOGETHER; i++) {
                const floats one = WIDE(set1_ps)(left[(first + i) * row + l * column]);
                for (int v = 0; v < VECTORS; v++)
                    sums[i][v] = WIDE(fmadd_ps)(one, right[l][v], sums[i][v]);
            }
        for (int i = 0; i < TOGETHER; i++)
            for (int v = 0; v < VECTORS; v++)
                to[first + i][v] = sums[i][v];
    }
}

/* Adds KEYS keys and values to a group; `mask` is what is added to scores, if anything. */
INLINE void attend(group *to, const float *keys, const float *values, int width, const floats (*mask)[VECTORS]) {
    floats scores[KEYS][VECTORS], factor[VECTORS];
    multiply(keys, width, 1, KEYS, width, (const floats(*)[VECTORS])to->queries, NULL, scores);
    for (int v = 0; v < VECTORS; v++) {
        floats greatest = to->greatest[v];
        for (int k = 0; k < KEYS; k++) {
            if (mask)
                scores[k][v] = WIDE(add_ps)(scores[k][v], mask[k][v]);
            greatest = WIDE(max_ps)(greatest, scores[k][v]);
        }
        factor[v] = exponential(WIDE(sub_ps)(to->greatest[v], greatest));
        floats total = WIDE(mul_ps)(to->total[v], factor[v]);
        for (int k = 0; k < KEYS; k++) {
            scores[k][v] = exponential(WIDE(sub_ps)(scores[k][v], greatest));
            total = WIDE(add_ps)(total, scores[k][v]);
        }
        to->greatest[v] = greatest, to->total[v] = total;
    }
    multiply(values, 1, width, width, KEYS, (const floats(*)[VECTORS])scores, factor, to->sums);
}

INLINE int last_of(int place, int places) { return place < places ? place : places - 1; }

/* A group's queries, from `place` on; places behind the last have its. */
static void begin(const work *work, part part, int place, group *to) {
    for (int i = 0; i < QUERIES; i += 8)
        for (int w = 0; w < work->width; w += 8) {
            const float *rows[8];
            for (int j = 0; j < 8; j++)
                rows[j] = query_at(work, part, last_of(place + i + j, work->places)) + w;
            transpose(rows, (float *)to->queries[w] + i, QUERIES);
        }
    for (int v = 0; v < VECTORS; v++) {
        for (int w = 0; w < work->width; w++) {
            to->queries[w][v] = WIDE(mul_ps)(to->queries[w][v], WIDE(set1_ps)(work->scale));
            to->sums[w][v] = WIDE(setzero_ps)();
        }
        to->greatest[v] = WIDE(set1_ps)(-FLT_MAX), to->total[v] = WIDE(setzero_ps)();
    }
}

static void read_mask(const work *work, part part, int place, int key, floats (*to)[VECTORS]) {
    float rows[QUERIES][KEYS];
    for (int i = 0; i < QUERIES; i++)
        for (int k = 0; k < KEYS; k += LANES)
            WIDE(storeu_ps)(&rows[i][k], LOAD_HALVES(mask_at(work, part, last_of(place + i, work->places), key + k)));
    for (int i = 0; i < QUERIES; i += 8)
        for (int k = 0; k < KEYS; k += 8) {
            const float *from[8];
            for (int j = 0; j < 8; j++)
                from[j] = &rows[i + j][k];
            transpose(from, (float *)to[k] + i, QUERIES);
        }
}

static void end(const work *work, part part, int place, group *of) {
    for (int w = 0; w < work->width; w++)
        for (int v = 0; v < VECTORS; v++)
            of->sums[w][v] = WIDE(div_ps)(of->sums[w][v], WIDE(max_ps)(of->total[v], WIDE(set1_ps)(FLT_MIN)));
    for (int i = 0; i < QUERIES; i += 8)
        for (int w = 0; w < work->width; w += 8) {
            const float *from[8];
            float rows[8][8];
            for (int j = 0; j < 8; j++)
                from[j] = (const float *)of->sums[w + j] + i;
            transpose(from, rows[0], 8);
            for (int j = 0; j < 8 && place + i + j < work->places; j++)
                memcpy(result_at(work, part, place + i + j) + w, rows[j], sizeof rows[j]);
        }
}

/* TAKEN places from `place` on, or what there is of them. */
void attend_many(const work *work, part part, int place) {
    const int rest = (work->places - place + QUERIES - 1) / QUERIES, count = rest < GROUPS ? rest : GROUPS;
    group groups[GROUPS];
    float keys[KEYS * WIDTH], values[KEYS * WIDTH];
    floats mask[KEYS][VECTORS];
    for (int g = 0; g < count; g++)
        begin(work, part, place + g * QUERIES, &groups[g]);
    for (int key = 0; key < work->keys->ne[1]; key += KEYS) {
        int unpacked = 0;
        for (int g = 0; g < count; g++) {
            const int first = place + g * QUERIES, size = last_of(first + QUERIES - 1, work->places) - first + 1;
            const int sees = seen(work, part, first, size, key);
            if (sees == NONE)
                continue;
            if (sees == SOME)
                read_mask(work, part, first, key, mask);
            if (!unpacked++) {
                unpack(work->keys, part, key, work->width, keys);
                unpack(work->values, part, key, work->width, values);
            }
            attend(&groups[g], keys, values, work->width, sees == SOME ? (const floats(*)[VECTORS])mask : NULL);
        }
    }
    for (int g = 0; g < count; g++)
        end(work, part, place + g * QUERIES, &groups[g]);
}
