/* Pictures of four bytes a pixel resized along rows or columns, to the same bytes as by Pillow: weights have 22 bits
 * behind the point, as Pillow's have, and sums are exact.
 *
 * Processors multiply numbers of 16 bits and add pairs of products, so a weight is taken apart: high * 2048 + low. */

#include "../wide.h"

#include <stdint.h>
#include <string.h>

enum { BYTES = 4, LOW_BITS = 11, POINT = 22, GROUP = 4 /* pixels of a row that are multiplied together */ };

/* Where each number of the result begins to read, and its weights: of each, `count`. */
typedef struct { const int32_t *firsts; const int16_t *high, *low; int64_t count; } weights;

INLINE __m256i whole(__m256i high, __m256i low) {
    return _mm256_add_epi32(_mm256_slli_epi32(high, LOW_BITS), low);
}

/* Rounded and cut off to bytes' range. */
INLINE __m256i rounded(__m256i of) {
    of = _mm256_srai_epi32(_mm256_add_epi32(of, _mm256_set1_epi32(1 << (POINT - 1))), POINT);
    return _mm256_min_epi32(_mm256_max_epi32(of, _mm256_setzero_si256()), _mm256_set1_epi32(255));
}

/* Of `rows` rows of `old` pixels, those from `begin` to `end` become rows of `width`.  What is read behind a row's end
 * has no weight; where that would be behind the last row's, the row is read in `spare`, which has room for a row and as
 * many pixels more as there are weights. */
PUBLIC void resize_rows(const uint8_t *from, uint8_t *to, int64_t rows, int64_t old, int64_t width, int64_t begin,
                        int64_t end, weights weights, uint8_t *spare) {
    const __m128i colours = _mm_setr_epi8(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15); /* side by side */
    for (int64_t row = begin; row < end; row++) {
        const uint8_t *pixels = from + row * old * BYTES;
        if ((rows - 1 - row) * old < weights.count)
            pixels = memcpy(spare, pixels, old * BYTES);
        for (int64_t x = 0; x < width; x++) {
            const uint8_t *at = pixels + BYTES * weights.firsts[x];
            const int16_t *high = weights.high + x * weights.count, *low = weights.low + x * weights.count;
            __m256i sums[2] = {_mm256_setzero_si256(), _mm256_setzero_si256()};
            for (int64_t i = 0; i < weights.count; i += GROUP, at += GROUP * BYTES) {
                int64_t four[2];
                memcpy(&four[0], high + i, sizeof *four), memcpy(&four[1], low + i, sizeof *four);
                const __m128i group = _mm_shuffle_epi8(_mm_loadu_si128((const __m128i *)at), colours);
                for (int part = 0; part < 2; part++)
                    sums[part] = _mm256_add_epi32(
                        sums[part], _mm256_madd_epi16(_mm256_cvtepu8_epi16(group), _mm256_set1_epi64x(four[part])));
            }
            const __m256i total = whole(sums[0], sums[1]), made = rounded(_mm256_hadd_epi32(total, total));
            __m128i four = _mm_unpacklo_epi64(_mm256_castsi256_si128(made), _mm256_extracti128_si256(made, 1));
            four = _mm_packs_epi32(four, four);
            const int32_t pixel = _mm_cvtsi128_si32(_mm_packus_epi16(four, four));
            memcpy(to + (row * width + x) * BYTES, &pixel, sizeof pixel);
        }
    }
}

/* Sixteen bytes of a row of the result, of pairs of rows; a row that is not there has no weight. */
INLINE __m128i resize_bytes(const uint8_t *from, int64_t stride, int64_t last, const int16_t *high, const int16_t *low,
                            int64_t count) {
    __m256i sums[2][2] = {{_mm256_setzero_si256(), _mm256_setzero_si256()},
                          {_mm256_setzero_si256(), _mm256_setzero_si256()}};
    for (int64_t i = 0; i < count; i += 2) {
        const uint8_t *upper = from + (i < last ? i : last) * stride;
        const uint8_t *lower = from + (i + 1 < last ? i + 1 : last) * stride;
        const __m256i first = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)upper));
        const __m256i second = _mm256_cvtepu8_epi16(_mm_loadu_si128((const __m128i *)lower));
        const __m256i pairs[2] = {_mm256_unpacklo_epi16(first, second), _mm256_unpackhi_epi16(first, second)};
        int32_t two[2];
        memcpy(&two[0], high + i, sizeof *two), memcpy(&two[1], low + i, sizeof *two);
        for (int part = 0; part < 2; part++)
            for (int half = 0; half < 2; half++)
                sums[part][half] = _mm256_add_epi32(
                    sums[part][half], _mm256_madd_epi16(pairs[half], _mm256_set1_epi32(two[part])));
    }
    __m256i halves[2];
    for (int half = 0; half < 2; half++)
        halves[half] = rounded(whole(sums[0][half], sums[1][half]));
    const __m256i words = _mm256_packus_epi32(halves[0], halves[1]);
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
}

/* Columns of `old` rows become columns of as many rows as there are weights; of these the ones from `begin` to `end`.
 * Rows have sixteen `bytes` or more. */
PUBLIC void resize_columns(const uint8_t *from, uint8_t *to, int64_t old, int64_t bytes, int64_t begin, int64_t end,
                           weights weights) {
    for (int64_t row = begin; row < end; row++) {
        const int64_t first = weights.firsts[row];
        const int16_t *high = weights.high + row * weights.count, *low = weights.low + row * weights.count;
        for (int64_t at = 0; at < bytes; at += 16) {
            const int64_t place = at + 16 <= bytes ? at : bytes - 16;
            const __m128i made =
                resize_bytes(from + first * bytes + place, bytes, old - 1 - first, high, low, weights.count);
            _mm_storeu_si128((__m128i *)(to + row * bytes + place), made);
        }
    }
}
