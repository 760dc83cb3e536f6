/* The widest vectors that pay on the processor that this is compiled for, under one name. */

#ifndef WIDE_H
#define WIDE_H

#include <immintrin.h>

#define INLINE static inline __attribute__((always_inline))
#define PUBLIC __attribute__((visibility("default"))) /* what others find by its name */

#if defined(__AVX512BW__) && defined(__AVX512VNNI__)
#define WIDE_512
enum { LANES = 16 };
typedef __m512i integers;
typedef __m512 floats;
#define WIDE(name) _mm512_##name
#define LOAD(from) _mm512_loadu_si512(from)
#define STORE(to, what) _mm512_storeu_si512(to, what)
#define LOAD_HALVES(from) _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)(from)))
#define AND _mm512_and_si512
#define AS_FLOATS _mm512_castsi512_ps
#define AS_INTEGERS _mm512_castps_si512
#define HALF(of, upper) ((upper) ? _mm512_extractf32x8_ps(of, 1) : _mm512_castps512_ps256(of))
/* The value where `of` is greater than the limit, else 0. */
#define WHERE_GREATER(value, of, limit) _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(of, limit, _CMP_GT_OQ), value)
#else
enum { LANES = 8 };
typedef __m256i integers;
typedef __m256 floats;
#define WIDE(name) _mm256_##name
#define LOAD(from) _mm256_loadu_si256((const __m256i *)(from))
#define STORE(to, what) _mm256_storeu_si256((__m256i *)(to), what)
#define LOAD_HALVES(from) _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from)))
#define AND _mm256_and_si256
#define AS_FLOATS _mm256_castsi256_ps
#define AS_INTEGERS _mm256_castps_si256
#define HALF(of, upper) ((void)(upper), of)
#define WHERE_GREATER(value, of, limit) _mm256_and_ps(value, _mm256_cmp_ps(of, limit, _CMP_GT_OQ))
#endif

/* In the order in which llama.cpp adds up eight numbers. */
INLINE float sum_of_eight(__m256 of) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(of), _mm256_extractf128_ps(of, 1));
    four = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(four, _mm_movehdup_ps(four)));
}

#endif
