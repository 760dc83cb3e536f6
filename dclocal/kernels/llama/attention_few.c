/* Attention of few queries, as of an answer's next token: vectors along a head.  See attention.c. */

#include "attention.h"

/* Eight numbers of a vector: where there are sixteen, the halves put together. */
#ifdef WIDE_512
#define HALVES(how, of) how(HALF(of, 0), HALF(of, 1))
#else
#define HALVES(how, of) (of)
#endif

/* The sums of eight vectors. */
INLINE __m256 sum_each(const floats of[8]) {
    __m256 halves[8];
    for (int i = 0; i < 8; i++)
        halves[i] = HALVES(_mm256_add_ps, of[i]);
    for (int count = 8; count > 2; count /= 2)
        for (int i = 0; i < count; i += 2)
            halves[i / 2] = _mm256_hadd_ps(halves[i], halves[i + 1]);
    return _mm256_add_ps(_mm256_permute2f128_ps(halves[0], halves[1], 0x20),
                         _mm256_permute2f128_ps(halves[0], halves[1], 0x31));
}

INLINE float greatest_of(floats of) {
    const __m256 eight = HALVES(_mm256_max_ps, of);
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    four = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(four, _mm_movehdup_ps(four)));
}

INLINE float sum_of(floats of) { return sum_of_eight(HALVES(_mm256_add_ps, of)); }

/* All of a part's places, FEW at most. */
void attend_few(const work *work, part part) {
    const int vectors = work->width / LANES;
    floats queries[FEW][WIDTH / LANES], sums[FEW][WIDTH / LANES];
    float keys[KEYS * WIDTH], values[KEYS * WIDTH], scores[KEYS], greatest[FEW], total[FEW];
    for (int p = 0; p < work->places; p++) {
        greatest[p] = -FLT_MAX, total[p] = 0;
        for (int v = 0; v < vectors; v++) {
            const floats query = WIDE(loadu_ps)(query_at(work, part, p) + v * LANES);
            queries[p][v] = WIDE(mul_ps)(query, WIDE(set1_ps)(work->scale));
            sums[p][v] = WIDE(setzero_ps)();
        }
    }
    for (int key = 0; key < work->keys->ne[1]; key += KEYS) {
        if (seen(work, part, 0, work->places, key) == NONE)
            continue;
        unpack(work->keys, part, key, work->width, keys);
        unpack(work->values, part, key, work->width, values);
        for (int p = 0; p < work->places; p++) {
            floats most = WIDE(set1_ps)(greatest[p]), added = WIDE(setzero_ps)();
            for (int k = 0; k < KEYS; k += 8) {
                floats products[8];
                for (int i = 0; i < 8; i++)
                    products[i] = WIDE(setzero_ps)();
                for (int v = 0; v < vectors; v++)
#pragma GCC unroll 8
                    for (int i = 0; i < 8; i++) {
                        const floats row = WIDE(loadu_ps)(&keys[(k + i) * work->width + v * LANES]);
                        products[i] = WIDE(fmadd_ps)(queries[p][v], row, products[i]);
                    }
                const __m128i *mask = (const __m128i *)mask_at(work, part, p, key + k);
                _mm256_storeu_ps(&scores[k], _mm256_add_ps(sum_each(products), _mm256_cvtph_ps(_mm_loadu_si128(mask))));
            }
            for (int k = 0; k < KEYS; k += LANES)
                most = WIDE(max_ps)(most, WIDE(loadu_ps)(&scores[k]));
            const float highest = greatest_of(most);
            float all[LANES];
            WIDE(storeu_ps)(all, exponential(WIDE(set1_ps)(greatest[p] - highest)));
            const float factor = all[0];
            for (int k = 0; k < KEYS; k += LANES) {
                const floats less = WIDE(sub_ps)(WIDE(loadu_ps)(&scores[k]), WIDE(set1_ps)(highest));
                const floats these = exponential(less);
                WIDE(storeu_ps)(&scores[k], these);
                added = WIDE(add_ps)(added, these);
            }
            greatest[p] = highest, total[p] = total[p] * factor + sum_of(added);
            for (int v = 0; v < vectors; v++) {
                floats sum = WIDE(mul_ps)(sums[p][v], WIDE(set1_ps)(factor)), other = WIDE(setzero_ps)();
                for (int k = 0; k < KEYS; k += 2) {
                    const float *row = &values[k * work->width + v * LANES];
                    sum = WIDE(fmadd_ps)(WIDE(set1_ps)(scores[k]), WIDE(loadu_ps)(row), sum);
                    other = WIDE(fmadd_ps)(WIDE(set1_ps)(scores[k + 1]), WIDE(loadu_ps)(row + work->width), other);
                }
                sums[p][v] = WIDE(add_ps)(sum, other);
            }
        }
    }
    for (int p = 0; p < work->places; p++)
        for (int v = 0; v < vectors; v++) {
            const floats all = WIDE(set1_ps)(total[p] > FLT_MIN ? total[p] : FLT_MIN);
            WIDE(storeu_ps)(result_at(work, part, p) + v * LANES, WIDE(div_ps)(sums[p][v], all));
        }
}
