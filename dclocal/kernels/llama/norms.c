/* Rows over the root of the mean of their squares, times weights: llama.cpp's function
 * ggml_compute_forward_rms_norm_mul_fused, which adds up squares one by one, in float64.  Here sixteen are added up
 * side by side, in float64, too: results are the same but where a mean lies between two of float32's numbers. */

#include "../wide.h"
#include "ggml.h"
#include "theirs.h"

#include <math.h>
#include <string.h>

#define OURS ggml_compute_forward_rms_norm_mul_fused
#define NAME "ggml_compute_forward_rms_norm_mul_fused"

enum { EIGHT = 8 };

typedef void function(const parameters *, tensor *, tensor *);

static double squares_of(const float *row, int64_t count) {
    __m256d sums[4] = {_mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd(), _mm256_setzero_pd()};
    for (int64_t i = 0; i < count; i += 2 * EIGHT)
#pragma GCC unroll 2
        for (int half = 0; half < 2; half++) {
            const __m256 numbers = _mm256_loadu_ps(row + i + half * EIGHT), squares = _mm256_mul_ps(numbers, numbers);
            sums[2 * half] = _mm256_add_pd(sums[2 * half], _mm256_cvtps_pd(_mm256_castps256_ps128(squares)));
            sums[2 * half + 1] = _mm256_add_pd(sums[2 * half + 1], _mm256_cvtps_pd(_mm256_extractf128_ps(squares, 1)));
        }
    double each[4];
    _mm256_storeu_pd(each, _mm256_add_pd(_mm256_add_pd(sums[0], sums[1]), _mm256_add_pd(sums[2], sums[3])));
    return each[0] + each[1] + each[2] + each[3];
}

PUBLIC void OURS(const parameters *parameters, tensor *norm, tensor *result) {
    const tensor *from = norm->src[0], *weights = result->src[result->src[0] == norm];
    const int64_t count = from->ne[0];
    if (from->type != FLOAT32 || weights->type != FLOAT32 || from->nb[0] != 4 || weights->nb[0] != 4 ||
        result->nb[0] != 4 || weights->ne[0] != count || count % (2 * EIGHT)) {
        static function *own;
        FIND_THEIRS(own, NAME);
        own(parameters, norm, result);
        return;
    }
    float least;
    memcpy(&least, norm->op_params, sizeof least);
    const int64_t rows = from->ne[1] * from->ne[2] * from->ne[3];
    for (int64_t r = 0; r < rows; r++) {
        const int64_t i = r % from->ne[1], j = r / from->ne[1] % from->ne[2], k = r / from->ne[1] / from->ne[2];
        if (i % parameters->threads != parameters->thread)
            continue;
        const float *row = (const float *)(from->data + i * from->nb[1] + j * from->nb[2] + k * from->nb[3]);
        const char *column = weights->data + i % weights->ne[1] * weights->nb[1];
        const float *weight = (const float *)(column + j % weights->ne[2] * weights->nb[2] +
                                              k % weights->ne[3] * weights->nb[3]);
        float *to = (float *)(result->data + i * result->nb[1] + j * result->nb[2] + k * result->nb[3]);
        const float mean = (float)(squares_of(row, count) / count);
        const __m256 scale = _mm256_set1_ps(1 / sqrtf(mean + least));
        for (int64_t n = 0; n < count; n += EIGHT)
            _mm256_storeu_ps(to + n, _mm256_mul_ps(_mm256_mul_ps(_mm256_loadu_ps(row + n), scale),
                                                   _mm256_loadu_ps(weight + n)));
    }
}
