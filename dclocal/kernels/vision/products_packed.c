/* A matrix as VNNI multiplies it: quads of weights side by side. */

#include "products.h"

#if defined(WITH_PRODUCTS) && defined(WIDE_512)

#include <string.h>

int make_blocks(const int8_t *weights, matrix *to) {
    const int quads = (to->length + 3) / 4;
    for (int b = 0; b < to->blocks; b++) {
        block *block = &to->of[b];
        block->count = quads, block->weights = room((size_t)quads * 4 * COLUMNS);
        if (!block->weights)
            return 0;
        for (int some = 0; some < COLUMNS; some += SOME) {
            __m128i *at = (__m128i *)(block->weights + 4 * some), total[4] = {{0}};
            for (int quad = 0; quad < quads; quad++, at += 4 * COLUMNS / sizeof *at) {
                read_quad(weights, to, b * COLUMNS + some, quad, at);
                for (int i = 0; i < 4; i++) { /* sums of two bytes each, then of both */
                    const __m128i pairs = _mm_maddubs_epi16(_mm_set1_epi8(1), at[i]);
                    total[i] = _mm_add_epi32(total[i], _mm_madd_epi16(pairs, _mm_set1_epi16(1)));
                }
            }
            memcpy(to->sums + b * COLUMNS + some, total, sizeof total);
        }
    }
    return 1;
}

#endif
