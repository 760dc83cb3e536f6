/* DynamicQuantizeMatMul: float32 rows times a constant matrix in eight bits, of each column with a scale.
 *
 * With VNNI of 512 bits one instruction multiplies unsigned bytes by signed ones and adds four of each in 32 bits; how
 * processors without VNNI come to the same sums is in products_arranged.c.
 *
 * Activations have a scale and a zero of their own for each row, where ONNX Runtime has one of each for all rows: they
 * are nearer to what they stand for. */

#include "products.h"

#ifdef WITH_PRODUCTS

#include <string.h>

enum { ROWS = 48 /* that one thread takes at a time */ };

/* Rows that are multiplied: their activations, in quads that are all there, and what these stand for. */
typedef struct { uint8_t *values; size_t stride; float scale[ROWS]; int32_t zero[ROWS]; } rows;

typedef struct { const matrix *matrix; const float *from, *bias; float *to; size_t rows; int failed; } work;

/* LANES whole numbers, brought between 0 and `greatest`, as bytes. */
INLINE void store_bytes(uint8_t *to, integers of, int greatest) {
#ifdef WIDE_512
    (void)greatest; /* which is all that a byte holds */
    _mm_storeu_si128((__m128i *)to, _mm512_cvtusepi32_epi8(_mm512_max_epi32(of, _mm512_set1_epi32(0))));
#else
    of = _mm256_min_epi32(_mm256_max_epi32(of, _mm256_setzero_si256()), _mm256_set1_epi32(greatest));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(of), _mm256_extracti128_si256(of, 1));
    _mm_storel_epi64((__m128i *)to, _mm_packus_epi16(words, words));
#endif
}

/* A row's activations as whole numbers from 0 to `greatest`: (number - zero) * scale. */
static void quantize(const float *from, int length, int greatest, rows *to, int row) {
    floats low = WIDE(setzero_ps)(), high = low;
    int i = 0;
    for (; i + LANES <= length; i += LANES) {
        low = WIDE(min_ps)(low, WIDE(loadu_ps)(from + i));
        high = WIDE(max_ps)(high, WIDE(loadu_ps)(from + i));
    }
    float least = 0, most = 0, lows[LANES], highs[LANES];
    WIDE(storeu_ps)(lows, low), WIDE(storeu_ps)(highs, high);
    for (int l = 0; l < LANES; l++)
        least = lows[l] < least ? lows[l] : least, most = highs[l] > most ? highs[l] : most;
    for (int j = i; j < length; j++)
        least = from[j] < least ? from[j] : least, most = from[j] > most ? from[j] : most;
    const float factor = most > least ? greatest / (most - least) : 0;
    const floats factors = WIDE(set1_ps)(factor);
    const int zero = _mm_cvtss_si32(_mm_set_ss(-least * factor));
    const integers zeros = WIDE(set1_epi32)(zero);
    for (i = 0; i < length; i += LANES) {
        float few[LANES] = {0};
        const float *some = from + i;
        if (length - i < LANES)
            some = memcpy(few, some, (length - i) * sizeof *few);
        const integers whole = WIDE(cvtps_epi32)(WIDE(mul_ps)(WIDE(loadu_ps)(some), factors));
        store_bytes(to->values + row * to->stride + i, WIDE(add_epi32)(whole, zeros), greatest);
    }
    to->scale[row] = factor ? 1 / factor : 0, to->zero[row] = zero;
}

INLINE integers four_of(const uint8_t *from) {
    int32_t bits;
    memcpy(&bits, from, sizeof bits);
    return WIDE(set1_epi32)(bits);
}

#ifdef WIDE_512

/* Sums of TOGETHER rows' products with the columns of a block; has a line `ahead` be fetched with each of its quads. */
INLINE void multiply(const uint8_t *from, size_t stride, const block *block, const int8_t *ahead,
                     integers total[TOGETHER][VECTORS]) {
    const int8_t *weights = block->weights;
#pragma GCC unroll 6
    for (int r = 0; r < TOGETHER; r++)
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++)
            total[r][v] = _mm512_set1_epi32(0);
    for (int q = 0; q < block->count; q++, weights += 4 * COLUMNS, from += 4, ahead += 64) {
        _mm_prefetch((const char *)ahead, _MM_HINT_T1);
        const integers columns[VECTORS] = {LOAD(weights), LOAD(weights + 64), LOAD(weights + 128), LOAD(weights + 192)};
#pragma GCC unroll 6
        for (int r = 0; r < TOGETHER; r++) {
            const integers values = four_of(from + r * stride);
#pragma GCC unroll 4
            for (int v = 0; v < VECTORS; v++)
                total[r][v] = _mm512_dpbusd_epi32(total[r][v], values, columns[v]);
        }
    }
}

#else

/* Adds to what is in a register: compilers would move it to another one and back. */
#define ADD_TO(instruction, to, what) __asm__(instruction " %1, %0, %0" : "+x"(to) : "x"(what))

/* Has a value stay in a register, where compilers would load it anew for each use. */
#define KEEP(value) __asm__("" : "+x"(value))

INLINE void multiply(const uint8_t *from, size_t stride, const block *block, const int8_t *ahead,
                     integers total[TOGETHER][VECTORS]) {
    const int8_t *weights = block->weights;
    (void)ahead;
#pragma GCC unroll 3
    for (int r = 0; r < TOGETHER; r++)
        total[r][0] = total[r][1] = _mm256_setzero_si256();
    for (int q = 0; q < block->count; q += RUN, weights += RUN * 4 * COLUMNS) {
        integers sum[TOGETHER][VECTORS];
#pragma GCC unroll 3
        for (int i = 0; i < RUN; i++) {
            const uint8_t *at = from + block->places[q + i];
            integers left = _mm256_load_si256((const __m256i *)weights + 2 * i);
            integers right = _mm256_load_si256((const __m256i *)weights + 2 * i + 1);
            KEEP(left);
            KEEP(right);
#pragma GCC unroll 3
            for (int r = 0; r < TOGETHER; r++) {
                const integers values = four_of(at + r * stride);
                const integers products[2] = {_mm256_maddubs_epi16(values, left), _mm256_maddubs_epi16(values, right)};
                for (int v = 0; v < VECTORS; v++)
                    if (i)
                        ADD_TO("vpaddw", sum[r][v], products[v]);
                    else
                        sum[r][v] = products[v];
            }
        }
#pragma GCC unroll 3
        for (int r = 0; r < TOGETHER; r++)
            for (int v = 0; v < VECTORS; v++)
                ADD_TO("vpaddd", total[r][v], _mm256_madd_epi16(sum[r][v], _mm256_set1_epi16(1)));
    }
}

#endif

/* Multiplies TOGETHER rows, of which `count` are written, by the columns of block `b`, of which `wide` are. */
INLINE void multiply_block(const rows *rows, int row, int count, const work *work, int b, const float *scales,
                           const float *bias, int wide, float *to) {
    const matrix *matrix = work->matrix;
    integers total[TOGETHER][VECTORS];
    const block *block = &matrix->of[b], *next = b + 1 < matrix->blocks ? block + 1 : block;
    const int8_t *ahead = next->weights + (size_t)row / TOGETHER * block->count * 64; /* a part of it with each rows */
    multiply(rows->values + row * rows->stride, rows->stride, block, ahead, total);
#pragma GCC unroll 6
    for (int r = 0; r < TOGETHER; r++) {
        if (r == count)
            break;
        float results[COLUMNS], *at = to + (size_t)(row + r) * matrix->columns + b * COLUMNS;
        float *whole_row = wide == COLUMNS ? at : results;
#pragma GCC unroll 4
        for (int v = 0; v < VECTORS; v++) {
            const integers sums = LOAD(matrix->sums + b * COLUMNS + v * LANES);
            const integers zero = WIDE(mullo_epi32)(WIDE(set1_epi32)(rows->zero[row + r]), sums);
            const floats whole = WIDE(cvtepi32_ps)(WIDE(sub_epi32)(total[r][v], zero));
            const floats scale = WIDE(mul_ps)(WIDE(set1_ps)(rows->scale[row + r]), WIDE(loadu_ps)(scales + v * LANES));
            WIDE(storeu_ps)(whole_row + v * LANES, WIDE(fmadd_ps)(whole, scale, WIDE(loadu_ps)(bias + v * LANES)));
        }
        if (wide < COLUMNS)
            memcpy(at, results, wide * sizeof *at);
    }
}

/* Multiplies ROWS rows, from the one that is `part` times as many on. */
static void multiply_rows(void *with, size_t part) {
    work *work = with;
    const matrix *matrix = work->matrix;
    const size_t start = part * ROWS;
    const int count = work->rows - start < ROWS ? work->rows - start : ROWS;
    rows rows = {.stride = (matrix->length + LANES - 1) / LANES * LANES};
    rows.values = room(ROWS * rows.stride);
    if (!rows.values) {
        work->failed = 1;
        return;
    }
    for (int r = 0; r < count; r++)
        quantize(work->from + (start + r) * matrix->length, matrix->length, matrix->greatest, &rows, r);
    float *to = work->to + start * matrix->columns;
    for (int b = 0; b < matrix->blocks; b++) {
        const int first = b * COLUMNS, wide = matrix->columns - first < COLUMNS ? matrix->columns - first : COLUMNS;
        float scales[COLUMNS] = {0}, bias[COLUMNS] = {0};
        for (int c = 0; c < wide; c++)
            scales[c] = matrix->scales[matrix->shared ? 0 : first + c];
        for (int c = 0; c < wide && work->bias; c++)
            bias[c] = work->bias[first + c];
        for (int r = 0; r < count; r += TOGETHER) {
            const int some = count - r < TOGETHER ? count - r : TOGETHER;
            if (wide == COLUMNS)
                multiply_block(&rows, r, some, work, b, scales, bias, COLUMNS, to);
            else
                multiply_block(&rows, r, some, work, b, scales, bias, wide, to);
        }
    }
    free(rows.values);
}

static const char *calculate(void *made, computation *in) {
    const matrix *matrix = made;
    tensor from = input_of(in, 0);
    const tensor zeros = input_of(in, 3), bias = input_of(in, 4);
    if (in->failed)
        return NULL;
    if (!from.rank || from.length[from.rank - 1] != matrix->length ||
        (bias.data && count_of(&bias, bias.rank) != matrix->columns))
        return "activations, weights and bias have other lengths";
    for (int64_t i = 0; zeros.data && i < count_of(&zeros, zeros.rank); i++)
        if (((const int8_t *)zeros.data)[i])
            return "ours is for weights without a zero of their own";
    work work = {.matrix = matrix, .from = from.data, .bias = bias.data, .rows = count_of(&from, from.rank - 1)};
    from.length[from.rank - 1] = matrix->columns;
    work.to = output_of(in, from.length, from.rank);
    if (!in->failed)
        in_parallel(in, multiply_rows, (work.rows + ROWS - 1) / ROWS, &work);
    return work.failed ? "there is no memory" : NULL;
}

static const int types[] = {FLOAT32, INT8, FLOAT32, INT8, FLOAT32};
static const int kinds[] = {REQUIRED, REQUIRED, REQUIRED, OPTIONAL, OPTIONAL};
static void *make(const ort_function *table, const ort_info *info, const char **why) {
    return matrix_of(table, info, why);
}

own products = {
    .name = "DynamicQuantizeMatMul", .types = types, .kinds = kinds, .inputs = 5,
    .make = make, .release = release_matrix, .calculate = calculate,
};

#endif
