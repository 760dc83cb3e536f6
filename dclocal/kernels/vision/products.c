/* DynamicQuantizeMatMul on processors without VNNI: float32 rows times a constant matrix in eight bits, of each column
 * with a scale.
 *
 * Such processors multiply unsigned bytes by signed ones and add pairs of products in 16 bits, where sums that are too
 * great stay at the greatest there is; a second instruction adds such pairs in 32 bits, and a third that to a sum.
 * Here sums of six products have 16 bits, so that three of the first instruction need one of the second.  They fit,
 * since weights are known: which of them are added in 16 bits is arranged for each sixteen columns when the node is
 * made, such that no activations can have a sum overflow.  Results are exact, as those of ONNX Runtime are.
 *
 * Activations have a scale and a zero of their own for each row, where ONNX Runtime has one of each for all rows: they
 * are nearer to what they stand for. */

#include "products.h"

#ifdef WITH_PRODUCTS

#include <string.h>

/* Adds to what is in a register: compilers would move it to another one and back. */
#define ADD_TO(instruction, to, what) __asm__(instruction " %1, %0, %0" : "+x"(to) : "x"(what))

/* Has a value stay in a register, where compilers would load it anew for each use. */
#define KEEP(value) __asm__("" : "+x"(value))

enum {
    TOGETHER = 3,        /* rows that are multiplied at a time */
    ROWS = 16 * TOGETHER /* that one thread takes at a time */
};

/* Rows that are multiplied: their activations, in quads that are all there, and what these stand for. */
typedef struct { uint8_t *values; size_t stride; float scale[ROWS]; int32_t zero[ROWS]; } rows;

typedef struct { const matrix *matrix; const float *from, *bias; float *to; size_t rows; int failed; } work;

/* A row's activations as whole numbers from 0 to `greatest`: (number - zero) * scale. */
static void quantize(const float *from, int length, int greatest, rows *to, int row) {
    __m256 low = _mm256_setzero_ps(), high = low;
    int i = 0;
    for (; i + 8 <= length; i += 8) {
        low = _mm256_min_ps(low, _mm256_loadu_ps(from + i));
        high = _mm256_max_ps(high, _mm256_loadu_ps(from + i));
    }
    float least = 0, most = 0, lows[8], highs[8];
    _mm256_storeu_ps(lows, low), _mm256_storeu_ps(highs, high);
    for (int l = 0; l < 8; l++)
        least = lows[l] < least ? lows[l] : least, most = highs[l] > most ? highs[l] : most;
    for (int j = i; j < length; j++)
        least = from[j] < least ? from[j] : least, most = from[j] > most ? from[j] : most;
    const float factor = most > least ? greatest / (most - least) : 0;
    const __m256 factors = _mm256_set1_ps(factor);
    const int zero = _mm_cvtss_si32(_mm_set_ss(-least * factor));
    const __m256i zeros = _mm256_set1_epi32(zero), limit = _mm256_set1_epi32(greatest);
    uint8_t *values = to->values + row * to->stride;
    for (i = 0; i < length; i += 8) {
        float few[8] = {0};
        const float *eight = from + i;
        if (length - i < 8)
            eight = memcpy(few, eight, (length - i) * sizeof *few);
        __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(_mm256_loadu_ps(eight), factors));
        whole = _mm256_min_epi32(_mm256_max_epi32(_mm256_add_epi32(whole, zeros), _mm256_setzero_si256()), limit);
        const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
        _mm_storel_epi64((__m128i *)(values + i), _mm_packus_epi16(words, words));
    }
    to->scale[row] = factor ? 1 / factor : 0, to->zero[row] = zero;
}

/* Multiplies TOGETHER rows, of which `count` are written, by sixteen columns, of which `wide` are. */
INLINE void multiply(const rows *rows, int row, int count, const block *block, const work *work, int first, int wide,
                     float *to) {
    const uint8_t *first_row = rows->values + row * rows->stride;
    const uint8_t *const from[TOGETHER] = {first_row, first_row + rows->stride, first_row + 2 * rows->stride};
    const int8_t *weights = block->weights;
    __m256i total[TOGETHER][2];
#pragma GCC unroll 3
    for (int r = 0; r < TOGETHER; r++)
        total[r][0] = total[r][1] = _mm256_setzero_si256();
    for (int q = 0; q < block->count; q += RUN, weights += RUN * 4 * COLUMNS) {
        __m256i sum[TOGETHER][2];
#pragma GCC unroll 3
        for (int i = 0; i < RUN; i++) {
            const size_t place = block->places[q + i];
            __m256i left = _mm256_load_si256((const __m256i *)weights + 2 * i);
            __m256i right = _mm256_load_si256((const __m256i *)weights + 2 * i + 1);
            KEEP(left);
            KEEP(right);
#pragma GCC unroll 3
            for (int r = 0; r < TOGETHER; r++) {
                int32_t bits;
                memcpy(&bits, from[r] + place, sizeof bits);
                const __m256i values = _mm256_set1_epi32(bits);
                const __m256i products[2] = {_mm256_maddubs_epi16(values, left), _mm256_maddubs_epi16(values, right)};
                for (int v = 0; v < 2; v++)
                    if (i)
                        ADD_TO("vpaddw", sum[r][v], products[v]);
                    else
                        sum[r][v] = products[v];
            }
        }
#pragma GCC unroll 3
        for (int r = 0; r < TOGETHER; r++)
            for (int v = 0; v < 2; v++)
                ADD_TO("vpaddd", total[r][v], _mm256_madd_epi16(sum[r][v], _mm256_set1_epi16(1)));
    }
    const matrix *matrix = work->matrix;
    static const float none[COLUMNS];
    const float *bias = work->bias ? work->bias + first : none;
#pragma GCC unroll 3
    for (int r = 0; r < TOGETHER; r++) {
        if (r == count)
            break;
        float results[COLUMNS];
        for (int v = 0; v < 2; v++) {
            const __m256i sums = _mm256_load_si256((const __m256i *)(matrix->sums + first) + v);
            const __m256i zero = _mm256_mullo_epi32(_mm256_set1_epi32(rows->zero[row + r]), sums);
            const __m256 whole = _mm256_cvtepi32_ps(_mm256_sub_epi32(total[r][v], zero));
            _mm256_storeu_ps(results + 8 * v, _mm256_mul_ps(whole, _mm256_set1_ps(rows->scale[row + r])));
        }
        float *at = to + (size_t)(row + r) * matrix->columns + first;
        for (int c = 0; c < wide; c++)
            at[c] = results[c] * matrix->scales[matrix->shared ? 0 : first + c] + bias[c];
    }
}

/* Multiplies ROWS rows, from the one that is `part` times as many on. */
static void multiply_rows(void *with, size_t part) {
    work *work = with;
    const matrix *matrix = work->matrix;
    const size_t start = part * ROWS;
    const int count = work->rows - start < ROWS ? work->rows - start : ROWS;
    rows rows = {.stride = (matrix->length + 7) / 8 * 8};
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
        for (int r = 0; r < count; r += TOGETHER) {
            const int some = count - r < TOGETHER ? count - r : TOGETHER;
            if (wide == COLUMNS)
                multiply(&rows, r, some, &matrix->of[b], work, first, COLUMNS, to);
            else
                multiply(&rows, r, some, &matrix->of[b], work, first, wide, to);
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
