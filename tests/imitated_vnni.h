/* What llama_kernels.c asks of VNNI, imitated, so that its variants run on processors without: with IMITATE_512 those of
 * AVX512, else those of 256 bits. */

#include <immintrin.h>
#include <math.h>
#include <stdint.h>
#include <string.h>

#define KEEP(value) (void)(value)

static inline int32_t four_products(int32_t sum, const void *weights, const void *values) {
    for (int i = 0; i < 4; i++)
        sum += ((const uint8_t *)weights)[i] * ((const int8_t *)values)[i];
    return sum;
}

#ifndef IMITATE_512

static inline __m256i imitated_dpbusd(__m256i sum, __m256i weights, __m256i values) {
    int32_t lanes[8];
    memcpy(lanes, &sum, sizeof lanes);
    for (int i = 0; i < 8; i++)
        lanes[i] = four_products(lanes[i], (const char *)&weights + 4 * i, (const char *)&values + 4 * i);
    memcpy(&sum, lanes, sizeof lanes);
    return sum;
}
#define __AVXVNNI__ 1
#define _mm256_dpbusd_avx_epi32 imitated_dpbusd

#else

typedef union { int32_t i[16]; float f[16]; } lanes;
#define EACH(expression) \
    lanes made; \
    for (int k = 0; k < 16; k++) \
        expression; \
    return made

static inline lanes imitated_load(const void *from) { lanes made; memcpy(&made, from, sizeof made); return made; }
static inline lanes imitated_load_some(unsigned some, const float *from) { EACH(made.f[k] = some >> k & 1 ? from[k] : 0); }
static inline void imitated_store_some(float *to, unsigned some, lanes what) {
    for (int k = 0; k < 16; k++)
        if (some >> k & 1)
            to[k] = what.f[k];
}
static inline lanes imitated_all_i(int32_t value) { EACH(made.i[k] = value); }
static inline lanes imitated_all_f(float value) { EACH(made.f[k] = value); }
static inline lanes imitated_add(lanes a, lanes b) { EACH(made.i[k] = a.i[k] + b.i[k]); }
static inline lanes imitated_mul(lanes a, lanes b) { EACH(made.f[k] = a.f[k] * b.f[k]); }
static inline lanes imitated_fmadd(lanes a, lanes b, lanes c) { EACH(made.f[k] = fmaf(a.f[k], b.f[k], c.f[k])); }
static inline lanes imitated_float(lanes a) { EACH(made.f[k] = (float)a.i[k]); }
static inline lanes imitated_dpbusd(lanes sum, lanes weights, lanes values) {
    EACH(made.i[k] = four_products(sum.i[k], &weights.i[k], &values.i[k]));
}
#define __AVX512BW__ 1
#define __AVX512VNNI__ 1
#define __m512i lanes
#define __m512 lanes
#define __mmask16 unsigned
#define _mm512_loadu_si512 imitated_load
#define _mm512_loadu_ps imitated_load
#define _mm512_maskz_loadu_ps imitated_load_some
#define _mm512_mask_storeu_ps imitated_store_some
#define _mm512_set1_epi32 imitated_all_i
#define _mm512_set1_ps imitated_all_f
#define _mm512_setzero_ps() imitated_all_f(0)
#define _mm512_add_epi32 imitated_add
#define _mm512_mul_ps imitated_mul
#define _mm512_fmadd_ps imitated_fmadd
#define _mm512_cvtepi32_ps imitated_float
#define _mm512_dpbusd_epi32 imitated_dpbusd

#endif
