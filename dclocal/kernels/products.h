/* Matrix products with four-bit weights: what those of many rows and of one have in common.  See products.c. */

#ifndef PRODUCTS_H
#define PRODUCTS_H

#include "wide.h"

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

/* What the sixteen nibbles stand for: weight + least. */
typedef struct { uint8_t weights[16]; int least; } code;
static const code iq4_nl = {{0, 23, 44, 62, 78, 92, 105, 117, 128, 140, 152, 165, 180, 196, 216, 240}, -127};
static const code q4_0 = {{8, 9, 10, 11, 12, 13, 14, 15, 0, 1, 2, 3, 4, 5, 6, 7}, -8};

#endif
