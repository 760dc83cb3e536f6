/* Products of a few rows or one with eight-bit weights, as of the words that answers may go on with: llama.cpp's
 * function llamafile_sgemm, to the same bits, for processors with VNNI.  It leaves one row to another function, whose
 * bits are the same.
 *
 * llama.cpp has 256 bits at a time and spends two instructions on signs for each one that multiplies.  Here weights are
 * made unsigned by adding 128 to all, which is taken away from sums again, two columns of them share a vector, and they
 * are fetched before they are read. */

#include "ggml.h"
#include "products.h"
#include "theirs.h"

#include <string.h>

#ifdef MULTIPLY_ADD

enum {
    EIGHTH = 8,                      /* sums of four products each, of a block */
    SHARED = LANES / EIGHTH,         /* columns of weights in a vector */
    AHEAD = 8,                       /* vectors of columns, that are fetched before they are read */
    FEW = 8,                         /* rows that are multiplied together */
    ROWS = 16, DEPTH = 128           /* at most, of rows and of their blocks; others are llama.cpp's */
};

typedef struct { uint16_t scale; int8_t values[BLOCK]; } bytes; /* ggml's */

/* Rows of activations, block by block: their values, what 128 times their sums is, and scales. */
typedef struct { int8_t values[BLOCK]; int32_t less[EIGHTH]; float scale; } row_block;

typedef _Bool function(const parameters *, int64_t, int64_t, int64_t, const void *, int64_t, const void *, int64_t,
                       void *, int64_t, int, int, int);

/* 32 bytes, in either half of a vector; and those of as many columns as share one. */
#ifdef WIDE_512
#define BOTH(from) _mm512_broadcast_i64x4(_mm256_loadu_si256((const __m256i *)(from)))
#define SIDE_BY_SIDE(first, second) \
    _mm512_inserti64x4(_mm512_castsi256_si512(_mm256_loadu_si256((const __m256i *)(first))), \
                       _mm256_loadu_si256((const __m256i *)(second)), 1)
#define SIDES(first, second) \
    _mm512_insertf32x8(_mm512_castps256_ps512(_mm256_set1_ps(first)), _mm256_set1_ps(second), 1)
#define XOR _mm512_xor_si512
#else
#define BOTH LOAD
#define SIDE_BY_SIDE(first, second) ((void)(second), LOAD(first))
#define SIDES(first, second) ((void)(second), _mm256_set1_ps(first))
#define XOR _mm256_xor_si256
#endif

static void read_rows(const bytes *from, int64_t next, int rows, int depth, row_block *to) {
    for (int r = 0; r < rows; r++)
        for (int b = 0; b < depth; b++, to++) {
            memcpy(to->values, from[r * next + b].values, BLOCK);
            to->scale = _cvtsh_ss(from[r * next + b].scale);
            for (int i = 0; i < EIGHTH; i++) {
                const int8_t *four = to->values + 4 * i;
                to->less[i] = -128 * (four[0] + four[1] + four[2] + four[3]);
            }
        }
}

/* `count` rows times the columns that share a vector. */
INLINE void multiply(const bytes *const columns[2], int64_t next, const row_block *rows, int count, int depth,
                     floats *to) {
    floats totals[FEW];
#pragma GCC unroll 8
    for (int r = 0; r < count; r++)
        totals[r] = WIDE(setzero_ps)();
    for (int b = 0; b < depth; b++) {
        const bytes *first = columns[0] + b, *second = columns[1] + b;
        for (int side = 0; side < SHARED; side++) /* as in products.h; a line has less than two blocks */
            _mm_prefetch((const char *)(columns[0] + b + (AHEAD * SHARED + side) * next), _MM_HINT_T0);
        const integers weights = XOR(SIDE_BY_SIDE(first->values, second->values), WIDE(set1_epi8)(-128));
        const floats scales = SIDES(_cvtsh_ss(first->scale), _cvtsh_ss(second->scale));
#pragma GCC unroll 8
        for (int r = 0; r < count; r++) {
            const row_block *row = rows + (size_t)r * depth + b;
            const integers sums = MULTIPLY_ADD(BOTH(row->less), weights, BOTH(row->values));
            const floats scale = WIDE(mul_ps)(scales, WIDE(set1_ps)(row->scale));
            totals[r] = WIDE(fmadd_ps)(scale, WIDE(cvtepi32_ps)(sums), totals[r]);
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < count; r++)
        to[r] = totals[r];
}

static void product(const bytes *weights, int64_t next, int64_t from, int64_t end, const row_block *rows, int count,
                    int depth, float *to, int64_t stride) {
    for (int64_t column = from; column < end; column += SHARED)
        for (int first = 0; first < count; first += FEW) {
            const int some = count - first < FEW ? count - first : FEW;
            const int last = column + SHARED - 1 < end ? SHARED - 1 : 0;
            const bytes *const columns[2] = {weights + column * next, weights + (column + last) * next};
            const row_block *row = rows + (size_t)first * depth;
            floats totals[FEW];
            if (some > 4) /* constants, so that sums stay in registers; rows that are not there are zeros */
                multiply(columns, next, row, FEW, depth, totals);
            else if (some > 2)
                multiply(columns, next, row, 4, depth, totals);
            else if (some > 1)
                multiply(columns, next, row, 2, depth, totals);
            else
                multiply(columns, next, row, 1, depth, totals);
            for (int r = 0; r < some; r++)
                for (int c = 0; c <= last; c++)
                    to[(first + r) * stride + column + c] = sum_of_eight(HALF(totals[r], c));
        }
}

/* One thread's share of all columns; a function of its own, for what it holds. */
static __attribute__((noinline)) void share_of(const parameters *parameters, int64_t columns, int rows, int depth,
                                               const bytes *left, int64_t left_next, const bytes *right,
                                               int64_t right_next, float *to, int64_t stride) {
    row_block read[ROWS * DEPTH];
    read_rows(right, right_next, rows, depth, read);
    const int filled = (rows + FEW - 1) / FEW * FEW; /* as many are multiplied together at most */
    memset(read + rows * depth, 0, (filled - rows) * depth * sizeof *read);
    const int64_t vectors = (columns + SHARED - 1) / SHARED;
    const int64_t each = (vectors + parameters->threads - 1) / parameters->threads * SHARED;
    const int64_t from = parameters->thread * each, end = from + each < columns ? from + each : columns;
    product(left, left_next, from, end, read, rows, depth, to, stride);
}

/* llama.cpp's own name and arguments: `to` [rows, columns] = `right` [rows, depth] times the transpose of `left`
 * [columns, depth], in blocks. */
PUBLIC _Bool llamafile_sgemm(const parameters *parameters, int64_t columns, int64_t rows, int64_t depth,
                             const void *left, int64_t left_next, const void *right, int64_t right_next, void *to,
                             int64_t stride, int left_kind, int right_kind, int kind) {
    if (left_kind != BYTES || right_kind != BYTES || kind != FLOAT32 || rows > ROWS || depth > DEPTH) {
        static function *own;
        FIND_THEIRS(own, "llamafile_sgemm");
        return own(parameters, columns, rows, depth, left, left_next, right, right_next, to, stride, left_kind,
                   right_kind, kind);
    }
    share_of(parameters, columns, rows, depth, left, left_next, right, right_next, to, stride);
    return 1;
}

#endif
