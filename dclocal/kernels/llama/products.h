/* Matrix products: what those of many rows, of one and of eight-bit weights have in common.  See products.c. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "../wide.h"

#include <stddef.h>
#include <stdint.h>

#ifdef WIDE_512
#define LOAD_COLUMNS(from, count) _mm512_maskz_loadu_ps((__mmask16)((1u << (count)) - 1), from)
#define STORE_COLUMNS(to, count, what) _mm512_mask_storeu_ps(to, (__mmask16)((1u << (count)) - 1), what)
#define MULTIPLY_ADD _mm512_dpbusd_epi32
#else
#define LOAD_COLUMNS(from, count) ((void)(count), _mm256_loadu_ps(from))
#define STORE_COLUMNS(to, count, what) ((void)(count), _mm256_storeu_ps(to, what))
#ifdef __AVXVNNI__
#define MULTIPLY_ADD _mm256_dpbusd_avx_epi32
#endif
#endif

enum { BLOCK = 32 }; /* values with one scale */

/* As llama.cpp lays weights out (ggml's repack.h): of each column eight bytes, then of each the next eight. */
typedef struct { uint16_t scale[8]; uint8_t nibbles[8 * BLOCK / 2]; } eight_columns;

/* A block of LANES columns is four vectors: of either half of its columns' bytes, one for each side of the columns.
 * With 512 bits a side is eight columns, and the second `next` blocks further on. */
#ifdef WIDE_512
#define BYTES(from, next, half, side) ((from)[(side) * (next)].nibbles + 64 * (half))
#define SCALES(from, next) _mm512_cvtph_ps(_mm256_loadu2_m128i((const __m128i *)(from)[next].scale, \
                                                               (const __m128i *)(from)->scale))
/* Every second number of two vectors. */
#define EVEN(first, second) _mm512_permutex2var_epi32( \
    first, _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30), second)
#define ODD(first, second) _mm512_permutex2var_epi32( \
    first, _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31), second)
#define EIGHT(number) _mm512_set1_epi64(number)
#define TABLE(from) _mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)(from)))
#else
#define BYTES(from, next, half, side) ((void)(next), (from)->nibbles + 64 * (half) + 32 * (side))
#define SCALES(from, next) ((void)(next), LOAD_HALVES((from)->scale))
#define EVEN(first, second) _mm256_permute4x64_epi64(SHUFFLED(first, second, 0x88), 0xD8)
#define ODD(first, second) _mm256_permute4x64_epi64(SHUFFLED(first, second, 0xDD), 0xD8)
#define SHUFFLED(first, second, how) \
    _mm256_castps_si256(_mm256_shuffle_ps(_mm256_castsi256_ps(first), _mm256_castsi256_ps(second), how))
#define EIGHT(number) _mm256_set1_epi64x(number)
#define TABLE(from) _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)(from)))
#endif
#if defined(WIDE_512) && defined(__AVX512VBMI__) /* of six bits, the upper two say which of four equal tables */
#define LOOK_UP(table, nibbles) _mm512_permutexvar_epi8(nibbles, table)
#else
#define LOOK_UP(table, nibbles) WIDE(shuffle_epi8)(table, AND(nibbles, WIDE(set1_epi8)(15)))
#endif

/* How far ahead of what is read weights are fetched: some 20,000 bytes, in whole vectors of columns of `depth` blocks,
 * one at least.  Processors do not see by themselves how weights are read: one row's products took twice as long. */
INLINE size_t ahead_of(size_t depth) {
    const size_t bytes = LANES / 8 * depth * sizeof(eight_columns);
    return (bytes < 20480 ? 20480 / bytes : 1) * bytes;
}

/* Has the lines be fetched that lie so far ahead of a block of each side. */
INLINE void fetch_ahead(const eight_columns *block, size_t depth, size_t ahead) {
    for (int side = 0; side < LANES / 8; side++)
        for (size_t line = 0; line < sizeof *block; line += 64)
            _mm_prefetch((const char *)(block + side * depth) + ahead + line, _MM_HINT_T0);
}

/* What the sixteen nibbles stand for: weight + least. */
typedef struct { uint8_t weights[16]; int least; } code;
static const code iq4_nl = {{0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240}, -127};
static const code q4_0 = {{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}, -8};

#endif
