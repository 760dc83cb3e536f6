/* Products of one row, as of an answer's next token, with four-bit weights: two of llama.cpp's functions, to the same
 * bits, for processors with VNNI.  See products.c, which has those of many rows.
 *
 * Weights are multiplied in the order in which they lie, so that nothing is moved but sums, once for each block.
 */

#include "products.h"

#include <string.h>

#ifdef MULTIPLY_ADD

enum { DEPTH = 256 }; /* blocks of a column at a time */

/* As llama.cpp lays out one row of activations. */
typedef struct { uint16_t scale; int8_t values[BLOCK]; } one_row;

/* A block of LANES columns is four vectors: where one lies, which half of its columns' bytes it has, and which half of
 * the columns, which have a sum each. */
#ifdef WIDE_512
#define VECTOR(from, next, i) ((from)[(i) / 2 * (next)].nibbles + 64 * ((i) % 2))
#define HALF_OF(i) ((i) % 2)
#define SUM_OF(i) ((i) / 2)
#define EIGHT(from) _mm512_set1_epi64(from)
/* The table four times, for what has VBMI: it takes six bits of each byte, and the upper two of them do not matter. */
#define TABLE(from) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(from)))
#ifdef __AVX512VBMI__
#define LOOK_UP(table, nibbles) _mm512_permutexvar_epi8(nibbles, table)
#else
#define LOOK_UP(table, nibbles) _mm512_shuffle_epi8(table, _mm512_and_si512(nibbles, _mm512_set1_epi8(15)))
#endif
/* Sums of neighbours, of the first vector and of the second. */
INLINE integers add_pairs(integers first, integers second) {
    const integers even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    const integers odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
    return _mm512_add_epi32(_mm512_permutex2var_epi32(first, even, second),
                            _mm512_permutex2var_epi32(first, odd, second));
}
INLINE floats scales(const eight_columns *from, size_t next) {
    const __m128i first = _mm_loadu_si128((const __m128i *)from->scale);
    const __m128i second = _mm_loadu_si128((const __m128i *)from[next].scale);
    return _mm512_cvtph_ps(_mm256_inserti128_si256(_mm256_castsi128_si256(first), second, 1));
}
#else
#define VECTOR(from, next, i) ((from)->nibbles + 32 * (i))
#define HALF_OF(i) ((i) / 2)
#define SUM_OF(i) ((i) % 2)
#define EIGHT(from) _mm256_set1_epi64x(from)
#define TABLE(from) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(from)))
#define LOOK_UP(table, nibbles) _mm256_shuffle_epi8(table, _mm256_and_si256(nibbles, _mm256_set1_epi8(15)))
INLINE integers add_pairs(integers first, integers second) {
    return _mm256_permute4x64_epi64(_mm256_hadd_epi32(first, second), 0xD8);
}
INLINE floats scales(const eight_columns *from, size_t next) {
    (void)next;
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from->scale));
}
#endif

/* `to` [columns] = `right` [length] times the transpose of `left` [columns, length]. */
INLINE void product(int length, float *to, const eight_columns *left, const one_row *right, int columns,
                    const code *code) {
    const int depth = length / BLOCK;
    const integers table = TABLE(code->weights);
    for (int first = 0; first < depth; first += DEPTH) {
        const int blocks = depth - first < DEPTH ? depth - first : DEPTH;
        uint32_t least[DEPTH];
        float scale[DEPTH];
        for (int b = 0; b < blocks; b++) {
            int sum = 0;
            for (int i = 0; i < BLOCK; i++)
                sum += right[first + b].values[i];
            least[b] = (uint32_t)(sum * code->least);
            scale[b] = _cvtsh_ss(right[first + b].scale);
        }
        for (int c = 0; c < columns; c += LANES) {
            const int count = columns - c < LANES ? columns - c : LANES;
            const eight_columns *weights = left + (size_t)c / 8 * depth + first;
            const size_t next = count > 8 ? depth : 0; /* the other eight columns' */
            floats total = first ? LOAD_COLUMNS(to + c, count) : WIDE(setzero_ps)();
            for (int b = 0; b < blocks; b++) {
                integers sums[2] = {EIGHT(least[b]), EIGHT(least[b])};
                for (int i = 0; i < 4; i++) {
                    int64_t low, high;
                    memcpy(&low, right[first + b].values + 8 * HALF_OF(i), sizeof low);
                    memcpy(&high, right[first + b].values + 8 * HALF_OF(i) + 16, sizeof high);
                    const integers bytes = LOAD(VECTOR(weights + b, next, i));
                    integers *sum = &sums[SUM_OF(i)];
                    *sum = MULTIPLY_ADD(*sum, LOOK_UP(table, bytes), EIGHT(low));
                    *sum = MULTIPLY_ADD(*sum, LOOK_UP(table, WIDE(srli_epi16)(bytes, 4)), EIGHT(high));
                }
                const floats both = WIDE(mul_ps)(scales(weights + b, next), WIDE(set1_ps)(scale[b]));
                total = WIDE(fmadd_ps)(WIDE(cvtepi32_ps)(add_pairs(sums[0], sums[1])), both, total);
            }
            STORE_COLUMNS(to + c, count, total);
        }
    }
}

/* llama.cpp's own names, arguments and layouts. */
void ggml_gemv_iq4_nl_8x8_q8_0(int length, float *to, size_t stride, const void *left, const void *right, int rows,
                               int columns) {
    (void)stride, (void)rows;
    product(length, to, left, right, columns, &iq4_nl);
}

void ggml_gemv_q4_0_8x8_q8_0(int length, float *to, size_t stride, const void *left, const void *right, int rows,
                             int columns) {
    (void)stride, (void)rows;
    product(length, to, left, right, columns, &q4_0);
}

#endif
