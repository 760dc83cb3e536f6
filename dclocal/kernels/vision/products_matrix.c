/* A node's weights, read and given back: see products.h. */

#include "products.h"

#ifdef WITH_PRODUCTS

#include <string.h>

enum { LONGEST = 1 << 14 /* row: its places have 16 bits, and sums 32 */ };

void read_quad(const int8_t *weights, const matrix *of, int first, int quad, __m128i to[4]) {
    const int rest = of->columns - first, count = rest < 0 ? 0 : rest < SOME ? rest : SOME;
    __m128i row[4];
    for (int r = 0; r < 4; r++) {
        int8_t bytes[SOME] = {0};
        if (4 * quad + r < of->length)
            memcpy(bytes, weights + (size_t)(4 * quad + r) * of->columns + first, count);
        row[r] = _mm_loadu_si128((const __m128i *)bytes);
    }
    for (int i = 0; i < 4; i++) { /* four columns */
        const __m128i upper = i / 2 ? _mm_unpackhi_epi8(row[0], row[1]) : _mm_unpacklo_epi8(row[0], row[1]);
        const __m128i lower = i / 2 ? _mm_unpackhi_epi8(row[2], row[3]) : _mm_unpacklo_epi8(row[2], row[3]);
        to[i] = i % 2 ? _mm_unpackhi_epi16(upper, lower) : _mm_unpacklo_epi16(upper, lower);
    }
}

void release_matrix(void *of) {
    matrix *matrix = of;
    for (int i = 0; i < matrix->blocks; i++)
        free(matrix->of[i].weights), free(matrix->of[i].places);
    free(matrix->sums);
    free(matrix);
}

matrix *matrix_of(const ort_function *table, const ort_info *info, const char **why) {
    const tensor weights = constant_of(table, info, 1), scales = constant_of(table, info, 2);
    if (!weights.data || !scales.data || weights.rank != 2 || weights.length[0] > LONGEST ||
        (count_of(&scales, scales.rank) != 1 && count_of(&scales, scales.rank) != weights.length[1])) {
        *why = "ours is for constant weights with a scale a column, and for shorter rows";
        return NULL;
    }
    const int columns = weights.length[1], blocks = (columns + COLUMNS - 1) / COLUMNS;
    matrix *to = calloc(1, sizeof *to + blocks * sizeof(block));
    if (!to)
        return NULL;
    to->length = weights.length[0], to->columns = columns, to->blocks = blocks, to->scales = scales.data;
    to->shared = count_of(&scales, scales.rank) == 1;
    to->greatest = BYTE;
    to->sums = room((size_t)blocks * COLUMNS * sizeof *to->sums);
    if (to->sums && make_blocks(weights.data, to))
        return to;
    release_matrix(to);
    return NULL;
}

#endif
