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

/* `to` [columns] = `right` [length] times the transpose of `left` [columns, length]. */
INLINE void product(int length, float *to, const eight_columns *left, const one_row *right, int columns,
                    const code *code) {
    const int depth = length / BLOCK;
    const size_t ahead = ahead_of(depth);
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
                fetch_ahead(weights + b, depth, ahead);
                integers sums[2] = {EIGHT(least[b]), EIGHT(least[b])};
                for (int half = 0; half < 2; half++) {
                    int64_t low, high;
                    memcpy(&low, right[first + b].values + 8 * half, sizeof low);
                    memcpy(&high, right[first + b].values + 8 * half + 16, sizeof high);
                    for (int side = 0; side < 2; side++) {
                        const integers bytes = LOAD(BYTES(weights + b, next, half, side));
                        sums[side] = MULTIPLY_ADD(sums[side], LOOK_UP(table, bytes), EIGHT(low));
                        const integers upper = LOOK_UP(table, WIDE(srli_epi16)(bytes, 4));
                        sums[side] = MULTIPLY_ADD(sums[side], upper, EIGHT(high));
                    }
                }
                const floats both = WIDE(mul_ps)(SCALES(weights + b, next), WIDE(set1_ps)(scale[b]));
                const integers sum = WIDE(add_epi32)(EVEN(sums[0], sums[1]), ODD(sums[0], sums[1]));
                total = WIDE(fmadd_ps)(WIDE(cvtepi32_ps)(sum), both, total);
            }
            STORE_COLUMNS(to + c, count, total);
        }
    }
}

/* llama.cpp's own names, arguments and layouts. */
PUBLIC void ggml_gemv_iq4_nl_8x8_q8_0(int length, float *to, size_t stride, const void *left, const void *right,
                                      int rows, int columns) {
    (void)stride, (void)rows;
    product(length, to, left, right, columns, &iq4_nl);
}

PUBLIC void ggml_gemv_q4_0_8x8_q8_0(int length, float *to, size_t stride, const void *left, const void *right,
                                    int rows, int columns) {
    (void)stride, (void)rows;
    product(length, to, left, right, columns, &q4_0);
}

#endif
