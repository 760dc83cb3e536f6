/* Matrix products with four-bit weights for llama.cpp on x86-64: two of its functions, to the same bits, in less time.
 * How they come into the place of llama.cpp's own stands in llama_kernels.py.
 *
 * llama.cpp keeps eight columns of weights together, 32 of each column with one scale, and four rows of activations, 32
 * of each row in eight bits with one scale.  It multiplies signed numbers, for which most processors have nothing:
 * two instructions more are spent on signs for each one that multiplies, others bring values side by side, and weights
 * are unpacked anew for every 16 rows.  Here they are unsigned, since the least of them is taken away from all,
 *
 *     sum of weight * value = sum of (weight - least) * value + least * sum of values,
 *
 * and are unpacked once for 160 rows, in the order in which they are multiplied.  Processors with VNNI multiply and add
 * four of them in one instruction; with 512 bits, two vectors of weights are multiplied by each value that is loaded,
 * or loads would take longer.  Those without multiply and add pairs, in 16 bits, which weights of four bits do not fill
 * within a block (15 * 127 * 32 / 2 = 30,480); IQ4_NL's have eight bits and are taken apart: low + 16 * high.
 */

#include "products.h"

#include <string.h>

/* Keeps a value in a register, where compilers would rather load it anew or put off adding to it. */
#ifndef KEEP
#define KEEP(value) __asm__("" : "+v"(value))
#endif

#ifdef WIDE_512
enum { VECTORS = 2 };
#else
enum { VECTORS = 1 };
#endif
#ifdef MULTIPLY_ADD
enum { PLANES = 1 };
#else
enum { PLANES = 2 };
#endif

enum {
    COLUMNS = VECTORS * LANES, /* that are multiplied together */
    QUADS = 8,  /* of a block's values, four are multiplied together */
    DEPTH = 24, /* blocks of a column at a time: weights that stay in the nearest cache */
    ROWS = 160  /* for which weights are unpacked once */
};

/* As llama.cpp lays out activations: of each row eight values, then of each the next eight. */
typedef struct { uint16_t scale[4]; int8_t values[4 * BLOCK]; } four_rows;

/* Columns' weights, four of each side by side.  The second plane has their high bits, where both are multiplied. */
typedef struct { uint8_t planes[DEPTH][QUADS][PLANES][4 * COLUMNS]; float scale[DEPTH][COLUMNS]; } weights;

/* What rows' blocks bring to every column: a scale, and the sum of their values times the least weight. */
typedef struct { float scale[DEPTH][ROWS]; int32_t least[DEPTH][ROWS]; } activations;

/* Unpacks LANES columns' weights, the vector `v`, of which each has `depth` blocks. */
INLINE void unpack(const eight_columns *from, size_t next, size_t depth, size_t ahead, int blocks, const code *code,
                   int high_bits, weights *to, int v) {
    const integers whole = TABLE(code->weights), four_bits = WIDE(set1_epi8)(15);
    const integers low = PLANES == 1 ? whole : AND(whole, four_bits), high = AND(WIDE(srli_epi16)(whole, 4), four_bits);
    for (int b = 0; b < blocks; b++) {
        fetch_ahead(from + b, depth, ahead);
        WIDE(storeu_ps)(&to->scale[b][v * LANES], SCALES(from + b, next));
        for (int half = 0; half < 2; half++) {
            const integers first = LOAD(BYTES(from + b, next, half, 0)), second = LOAD(BYTES(from + b, next, half, 1));
            const integers quads[2] = {EVEN(first, second), ODD(first, second)};
            for (int quad = 0; quad < 2; quad++)
                for (int upper = 0; upper < 2; upper++) { /* a byte's upper nibble is 16 weights on */
                    const integers nibbles = upper ? WIDE(srli_epi16)(quads[quad], 4) : quads[quad];
                    uint8_t(*planes)[4 * COLUMNS] = to->planes[b][4 * upper + 2 * half + quad];
                    STORE(planes[0] + 4 * LANES * v, LOOK_UP(low, nibbles));
                    if (PLANES == 2 && high_bits)
                        STORE(planes[PLANES - 1] + 4 * LANES * v, LOOK_UP(high, nibbles));
                }
        }
    }
}

/* Reads what the first `blocks` of rows' `depth` blocks bring to every column. */
INLINE void read_rows(const four_rows *from, int depth, int rows, int blocks, int least, activations *to) {
    const __m256i ones = _mm256_set1_epi8(1), ones16 = _mm256_set1_epi16(1);
    for (int row = 0; row < rows; row += 4, from += depth) {
        for (int b = 0; b < blocks; b++) {
            _mm_storeu_ps(&to->scale[b][row], _mm_cvtph_ps(_mm_loadl_epi64((const __m128i *)from[b].scale)));
            __m256i sum = _mm256_setzero_si256();
            for (int i = 0; i < 4; i++) { /* eight values of each row */
                const __m256i values = _mm256_loadu_si256((const __m256i *)(from[b].values + 32 * i));
                sum = _mm256_add_epi16(sum, _mm256_maddubs_epi16(ones, values));
            }
            sum = _mm256_madd_epi16(sum, ones16);
            sum = _mm256_add_epi32(sum, _mm256_shuffle_epi32(sum, 0xB1));
            sum = _mm256_permutevar8x32_epi32(sum, _mm256_setr_epi32(0, 2, 4, 6, 0, 2, 4, 6));
            const __m128i product = _mm_mullo_epi32(_mm256_castsi256_si128(sum), _mm_set1_epi32(least));
            _mm_storeu_si128((__m128i *)&to->least[b][row], product);
        }
    }
}

/* The sums of a block's products for one row; the high bits' apart, where weights have two planes. */
typedef struct { integers low, high; } sums;

#ifdef MULTIPLY_ADD
INLINE sums begin(int32_t least) {
    const integers all = WIDE(set1_epi32)(least);
    return (sums){all, all};
}

INLINE void add(sums *to, integers low, integers high, integers values, int high_bits) {
    (void)high, (void)high_bits;
    to->low = MULTIPLY_ADD(to->low, low, values);
}

INLINE integers end(sums of, int32_t least, int high_bits) {
    (void)least, (void)high_bits;
    return of.low;
}
#else
INLINE sums begin(int32_t least) {
    (void)least;
    return (sums){_mm256_setzero_si256(), _mm256_setzero_si256()};
}

INLINE void add(sums *to, integers low, integers high, integers values, int high_bits) {
    to->low = _mm256_add_epi16(to->low, _mm256_maddubs_epi16(low, values));
    KEEP(to->low);
    if (high_bits) {
        to->high = _mm256_add_epi16(to->high, _mm256_maddubs_epi16(high, values));
        KEEP(to->high);
    }
}

INLINE integers end(sums of, int32_t least, int high_bits) {
    integers whole = _mm256_madd_epi16(of.low, _mm256_set1_epi16(1));
    if (high_bits)
        whole = _mm256_add_epi32(whole, _mm256_madd_epi16(of.high, _mm256_set1_epi16(16)));
    return _mm256_add_epi32(whole, _mm256_set1_epi32(least));
}
#endif

/* How many of `count` columns the vector has. */
INLINE int of_vector(int count, int vector) {
    const int rest = count - vector * LANES;
    return rest < 0 ? 0 : rest < LANES ? rest : LANES;
}

/* Multiplies four rows, of which `row` is the first, by `vectors` of columns, of which `count` are written; adds to
 * what is there unless this is its `beginning`. */
INLINE void multiply(const four_rows *from, int blocks, const weights *columns, int high_bits, const activations *rows,
                     int row, float *to, size_t stride, int vectors, int count, int beginning) {
    floats totals[4][VECTORS];
    for (int r = 0; r < 4; r++)
        for (int v = 0; v < vectors; v++)
            totals[r][v] = beginning ? WIDE(setzero_ps)()
                                     : LOAD_COLUMNS(to + r * stride + v * LANES, of_vector(count, v));
    for (int b = 0; b < blocks; b++) {
        sums block[4][VECTORS];
        for (int r = 0; r < 4; r++)
            for (int v = 0; v < vectors; v++)
                block[r][v] = begin(rows->least[b][row + r]);
#pragma GCC unroll 8
        for (int quad = 0; quad < QUADS; quad++) {
            integers low[VECTORS], high[VECTORS];
            for (int v = 0; v < vectors; v++) {
                low[v] = LOAD(columns->planes[b][quad][0] + 4 * LANES * v);
                high[v] = LOAD(columns->planes[b][quad][PLANES - 1] + 4 * LANES * v);
                KEEP(low[v]);
                if (PLANES == 2 && high_bits)
                    KEEP(high[v]);
            }
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                int32_t four;
                memcpy(&four, from[b].values + 32 * (quad / 2) + 8 * r + 4 * (quad % 2), sizeof four);
                integers values = WIDE(set1_epi32)(four);
                if (VECTORS > 1)
                    KEEP(values);
                for (int v = 0; v < vectors; v++)
                    add(&block[r][v], low[v], high[v], values, high_bits);
            }
        }
        for (int v = 0; v < vectors; v++) {
            const floats scale = WIDE(loadu_ps)(columns->scale[b] + v * LANES);
#pragma GCC unroll 4
            for (int r = 0; r < 4; r++) {
                const floats sum = WIDE(cvtepi32_ps)(end(block[r][v], rows->least[b][row + r], high_bits));
                const floats both = WIDE(mul_ps)(scale, WIDE(set1_ps)(rows->scale[b][row + r]));
                totals[r][v] = WIDE(fmadd_ps)(sum, both, totals[r][v]);
            }
        }
    }
    for (int r = 0; r < 4; r++)
        for (int v = 0; v < vectors; v++)
            STORE_COLUMNS(to + r * stride + v * LANES, of_vector(count, v), totals[r][v]);
}

/* `to` [rows, columns] = `right` [rows, length] times the transpose of `left` [columns, length]. */
INLINE void product(int length, float *to, size_t stride, const eight_columns *left, const four_rows *right, int rows,
                    int columns, const code *code, int high_bits) {
    const int depth = length / BLOCK;
    const size_t ahead = ahead_of(depth);
    weights unpacked;
    activations read;
    for (int b = 0; b < depth; b += DEPTH) {
        const int blocks = depth - b < DEPTH ? depth - b : DEPTH;
        for (int r = 0; r < rows; r += ROWS) {
            const int panel = rows - r < ROWS ? rows - r : ROWS;
            const four_rows *from = right + (size_t)r / 4 * depth + b;
            read_rows(from, depth, panel, blocks, code->least, &read);
            for (int c = 0; c < columns; c += COLUMNS) {
                const int count = columns - c < COLUMNS ? columns - c : COLUMNS;
                for (int v = 0; v * LANES < count; v++) {
                    const size_t next = count - v * LANES > 8 ? depth : 0; /* the same again, where there are no more */
                    const eight_columns *from_here = left + (size_t)(c + v * LANES) / 8 * depth + b;
                    unpack(from_here, next, depth, ahead, blocks, code, high_bits, &unpacked, v);
                }
                for (int row = 0; row < panel; row += 4) {
                    const four_rows *four = from + (size_t)row / 4 * depth;
                    float *results = to + (size_t)(r + row) * stride + c;
                    if (count <= LANES)
                        multiply(four, blocks, &unpacked, high_bits, &read, row, results, stride, 1, count, b == 0);
                    else
                        multiply(four, blocks, &unpacked, high_bits, &read, row, results, stride, VECTORS, count,
                                 b == 0);
                }
            }
        }
    }
}

/* llama.cpp's own names, arguments and layouts. */
PUBLIC void ggml_gemm_iq4_nl_8x8_q8_0(int length, float *to, size_t stride, const void *left, const void *right,
                                      int rows, int columns) {
    product(length, to, stride, left, right, rows, columns, &iq4_nl, 1);
}

PUBLIC void ggml_gemm_q4_0_8x8_q8_0(int length, float *to, size_t stride, const void *left, const void *right,
                                    int rows, int columns) {
    product(length, to, stride, left, right, rows, columns, &q4_0, 0);
}
