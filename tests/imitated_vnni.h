/* What our kernels ask of VNNI and AVX512, imitated, so that their variants run on processors without: with IMITATE_512
 * those of AVX512, else those of VNNI with 256 bits. */

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

static inline int32_t two_products(int32_t sum, const void *left, const void *right) {
    int64_t exact = sum; /* what does not fit in between is cut off */
    for (int i = 0; i < 2; i++)
        exact += ((const int16_t *)left)[i] * ((const int16_t *)right)[i];
    return (int32_t)(uint32_t)exact;
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
static inline __m256i imitated_dpwssd(__m256i sum, __m256i left, __m256i right) {
    int32_t lanes[8];
    memcpy(lanes, &sum, sizeof lanes);
    for (int i = 0; i < 8; i++)
        lanes[i] = two_products(lanes[i], (const char *)&left + 4 * i, (const char *)&right + 4 * i);
    memcpy(&sum, lanes, sizeof lanes);
    return sum;
}
#define __AVXVNNI__ 1
#define _mm256_dpbusd_avx_epi32 imitated_dpbusd
#define MULTIPLY_PAIRS(to, left, right) to = imitated_dpwssd(to, left, right)

#else

typedef union { int32_t i[16]; float f[16]; uint8_t b[64]; uint16_t s[32]; int64_t l[8]; } lanes;
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
static inline lanes imitated_dpwssd(lanes sum, lanes left, lanes right) {
    EACH(made.i[k] = two_products(sum.i[k], &left.i[k], &right.i[k]));
}
static inline lanes imitated_times(lanes a, lanes b) {
    EACH(made.i[k] = (int32_t)((uint32_t)a.i[k] * (uint32_t)b.i[k]));
}
static inline lanes imitated_less(lanes a, lanes b) {
    EACH(made.i[k] = (int32_t)((uint32_t)a.i[k] - (uint32_t)b.i[k]));
}
static inline lanes imitated_most(lanes a, lanes b) { EACH(made.i[k] = a.i[k] > b.i[k] ? a.i[k] : b.i[k]); }
static inline __m128i imitated_bytes(lanes a) {
    uint8_t made[16];
    for (int k = 0; k < 16; k++)
        made[k] = (uint32_t)a.i[k] > 255 ? 255 : (uint8_t)a.i[k];
    return _mm_loadu_si128((const __m128i *)made);
}
static inline lanes imitated_whole(lanes a) { EACH(made.i[k] = (int32_t)lrintf(a.f[k])); }
static inline __m256i imitated_narrow(lanes a) {
    int16_t made[16];
    for (int k = 0; k < 16; k++)
        made[k] = (int16_t)a.i[k];
    return _mm256_loadu_si256((const __m256i *)made);
}
static inline lanes imitated_min(lanes a, lanes b) { EACH(made.f[k] = a.f[k] < b.f[k] ? a.f[k] : b.f[k]); }
static inline void imitated_store(void *to, lanes what) { memcpy(to, &what, sizeof what); }
static inline lanes imitated_sum(lanes a, lanes b) { EACH(made.f[k] = a.f[k] + b.f[k]); }
static inline lanes imitated_sub(lanes a, lanes b) { EACH(made.f[k] = a.f[k] - b.f[k]); }
static inline lanes imitated_div(lanes a, lanes b) { EACH(made.f[k] = a.f[k] / b.f[k]); }
static inline lanes imitated_max(lanes a, lanes b) { EACH(made.f[k] = a.f[k] > b.f[k] ? a.f[k] : b.f[k]); }
static inline lanes imitated_fnmadd(lanes a, lanes b, lanes c) { EACH(made.f[k] = fmaf(-a.f[k], b.f[k], c.f[k])); }
static inline lanes imitated_shift(lanes a, int by) { EACH(made.i[k] = (int32_t)((uint32_t)a.i[k] << by)); }
static inline lanes imitated_halves(__m256i of) { EACH(made.f[k] = _cvtsh_ss(((const uint16_t *)&of)[k])); }
static inline lanes imitated_where(lanes where, lanes a) { EACH(made.i[k] = where.i[k] ? a.i[k] : 0); }
static inline lanes imitated_greater(lanes a, lanes b) { EACH(made.i[k] = a.f[k] > b.f[k]); }
static inline __m256 imitated_half(lanes of, int upper) { return _mm256_loadu_ps(of.f + 8 * upper); }
static inline lanes imitated_each_i(const int32_t *values) { EACH(made.i[k] = values[k]); }
static inline lanes imitated_and(lanes a, lanes b) { EACH(made.i[k] = a.i[k] & b.i[k]); }
static inline lanes imitated_all_l(int64_t value) { EACH(made.l[k / 2] = value); }
static inline lanes imitated_four(__m128i of) { EACH(made.i[k] = ((const int32_t *)&of)[k % 4]); }
static inline lanes imitated_twice(__m256i of) { EACH(made.i[k] = ((const int32_t *)&of)[k % 8]); }
static inline lanes imitated_twice_f(__m256 of) { EACH(made.f[k] = ((const float *)&of)[k % 8]); }
static inline lanes imitated_put(lanes a, __m256i upper) { memcpy(a.i + 8, &upper, 32); return a; }
static inline lanes imitated_xor(lanes a, lanes b) { EACH(made.i[k] = a.i[k] ^ b.i[k]); }
static inline lanes imitated_pick(lanes a, lanes which, lanes b) {
    EACH(made.i[k] = (which.i[k] & 16 ? b : a).i[which.i[k] & 15]);
}
static inline lanes imitated_shift_s(lanes a, int by) {
    for (int k = 0; k < 32; k++)
        a.s[k] >>= by;
    return a;
}
static inline lanes imitated_shuffle(lanes table, lanes which) {
    for (int k = 0; k < 64; k++)
        which.b[k] = which.b[k] & 128 ? 0 : table.b[k / 16 * 16 + (which.b[k] & 15)];
    return which;
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
#define _mm512_storeu_ps imitated_store
#define _mm512_storeu_si512 imitated_store
#define _mm512_add_ps imitated_sum
#define _mm512_sub_ps imitated_sub
#define _mm512_div_ps imitated_div
#define _mm512_max_ps imitated_max
#define _mm512_fnmadd_ps imitated_fnmadd
#define _mm512_slli_epi32 imitated_shift
#define _mm512_cvtph_ps imitated_halves
#define _mm512_castsi512_ps(of) (of)
#define _mm512_castps_si512(of) (of)
#define _mm512_maskz_mov_ps imitated_where
#define _mm512_cmp_ps_mask(a, b, how) imitated_greater(a, b)
#define _mm512_castps512_ps256(of) imitated_half(of, 0)
#define _mm512_extractf32x8_ps imitated_half
#define _mm512_setr_epi32(...) imitated_each_i((const int32_t[16]){__VA_ARGS__})
#define _mm512_set1_epi8(value) imitated_all_i((int32_t)(0x01010101u * (uint8_t)(value)))
#define _mm512_set1_epi64 imitated_all_l
#define _mm512_and_si512 imitated_and
#define _mm512_broadcast_i32x4 imitated_four
#define _mm512_permutex2var_epi32 imitated_pick
#define _mm512_broadcast_i64x4 imitated_twice
#define _mm512_castsi256_si512 imitated_twice
#define _mm512_inserti64x4(a, b, upper) imitated_put(a, b)
#define _mm512_castps256_ps512 imitated_twice_f
#define _mm512_insertf32x8(a, b, upper) imitated_put(a, _mm256_castps_si256(b))
#define _mm512_xor_si512 imitated_xor
#define _mm512_srli_epi16 imitated_shift_s
#define _mm512_shuffle_epi8 imitated_shuffle
#define _mm512_cvtepi32_ps imitated_float
#define _mm512_dpbusd_epi32 imitated_dpbusd
#define MULTIPLY_PAIRS(to, left, right) to = imitated_dpwssd(to, left, right)
#define _mm512_mullo_epi32 imitated_times
#define _mm512_sub_epi32 imitated_less
#define _mm512_max_epi32 imitated_most
#define _mm512_cvtusepi32_epi8 imitated_bytes
#define _mm512_cvtps_epi32 imitated_whole
#define _mm512_cvtepi32_epi16 imitated_narrow
#define _mm512_min_ps imitated_min

#endif
