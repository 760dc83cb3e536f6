/* How a matrix is arranged without VNNI, such that sums of six products have 16 bits.
 *
 * Such processors multiply unsigned bytes by signed ones and add pairs of products in 16 bits, where sums that are too
 * great stay at the greatest there is; a second instruction adds such pairs in 32 bits, and a third that to a sum.
 * Here sums of six products have 16 bits, so that three of the first instruction need one of the second.  They fit,
 * since weights are known: which of them are added in 16 bits is arranged for each sixteen columns when the node is
 * made, such that no activations can have a sum overflow.  Results are exact, as those of ONNX Runtime are. */

#include "products.h"

#if defined(WITH_PRODUCTS) && !defined(WIDE_512)

#include <string.h>

enum {
    SUM = 32767,          /* the greatest of 16 bits: what the heaviest pair of weights leaves is for activations */
    LANES16 = 2 * COLUMNS /* sums in 16 bits: of either half of a quad, for each column */
};

/* What the weights of a run that are added in the same 16 bits come to, of either sign. */
typedef struct { int16_t of[2][LANES16]; } load;

/* A block while it is made: of each quad, four weights of each column, and their loads. */
typedef struct { int8_t (*weights)[4 * COLUMNS]; load *loads, *held; int16_t (*runs)[RUN]; int quads, most; } making;

static int fits(load *held, const load *more, int most) {
    int over = 0;
    for (int sign = 0; sign < 2; sign++)
        for (int lane = 0; lane < LANES16; lane++)
            over |= held->of[sign][lane] + more->of[sign][lane] > most;
    for (int sign = 0; sign < 2 && !over; sign++)
        for (int lane = 0; lane < LANES16; lane++)
            held->of[sign][lane] += more->of[sign][lane];
    return !over;
}

/* Reads COLUMNS columns, from `first` on, and adds up each one's weights. */
static void read_columns(const int8_t *from, const matrix *of, int first, making *to, int32_t *sums) {
    const __m128i ones = _mm_set1_epi8(1), none = _mm_setzero_si128();
    __m128i total[4] = {none, none, none, none};
    for (int quad = 0; quad < to->quads; quad++) {
        __m128i four[4];
        read_quad(from, of, first, quad, four);
        for (int i = 0; i < 4; i++) {
            const __m128i above = _mm_maddubs_epi16(_mm_max_epi8(four[i], none), ones);
            const __m128i below = _mm_maddubs_epi16(_mm_abs_epi8(_mm_min_epi8(four[i], none)), ones);
            _mm_storeu_si128((__m128i *)to->weights[quad] + i, four[i]);
            _mm_storeu_si128((__m128i *)to->loads[quad].of[0] + i, above);
            _mm_storeu_si128((__m128i *)to->loads[quad].of[1] + i, below);
            total[i] = _mm_add_epi32(total[i], _mm_madd_epi16(_mm_sub_epi16(above, below), _mm_set1_epi16(1)));
        }
    }
    for (int i = 0; i < 4; i++)
        _mm_storeu_si128((__m128i *)sums + i, total[i]);
}

/* Puts each quad into the first run that has room for it; returns how many runs there are. */
static int arrange(making *block) {
    int count = 0, open = 0;
    for (int quad = 0; quad < block->quads; quad++) {
        int run = open, place = RUN;
        for (; run < count; run++) {
            for (place = 0; place < RUN && block->runs[run][place] >= 0; place++)
                ;
            if (place < RUN && fits(&block->held[run], &block->loads[quad], block->most))
                break;
        }
        if (run == count) {
            place = 0, block->held[count] = block->loads[quad];
            memset(block->runs[count++], -1, sizeof *block->runs);
        }
        block->runs[run][place] = quad;
        while (open < count && block->runs[open][RUN - 1] >= 0)
            open++;
    }
    return count;
}

/* The block as it is multiplied; whether there was memory for it. */
static int pack(making *from, block *to) {
    to->count = RUN * arrange(from);
    to->weights = room((size_t)to->count * 4 * COLUMNS);
    to->places = room(to->count * sizeof *to->places);
    if (!to->weights || !to->places)
        return 0;
    for (int q = 0; q < to->count; q++) {
        const int quad = from->runs[q / RUN][q % RUN];
        to->places[q] = quad < 0 ? 0 : 4 * quad;
        if (quad < 0)
            memset(to->weights + 4 * COLUMNS * q, 0, 4 * COLUMNS);
        else
            memcpy(to->weights + 4 * COLUMNS * q, from->weights[quad], 4 * COLUMNS);
    }
    return 1;
}

/* The most that two weights of one sign and column, whose products are added in the same 16 bits, come to. */
static int heaviest(const int8_t *from, int length, int columns) {
    int most = 1;
    for (int place = 0; place < length; place += 2) {
        const int8_t *row = from + (size_t)place * columns, *next = place + 1 < length ? row + columns : row;
        for (int c = 0; c < columns; c++) {
            const int below = next == row ? 0 : next[c];
            const int above = (row[c] > 0 ? row[c] : 0) + (below > 0 ? below : 0);
            const int under = (row[c] < 0 ? -row[c] : 0) + (below < 0 ? -below : 0);
            const int more = above > under ? above : under;
            most = more > most ? more : most;
        }
    }
    return most;
}

int make_blocks(const int8_t *weights, matrix *to) {
    const int quads = (to->length + 3) / 4, limit = SUM / heaviest(weights, to->length, to->columns);
    to->greatest = limit < BYTE ? limit : BYTE;
    making making = {room((size_t)quads * 4 * COLUMNS), room(quads * sizeof(load)), room(quads * sizeof(load)),
                     room(quads * sizeof *making.runs), quads, SUM / to->greatest};
    int ready = making.weights && making.loads && making.held && making.runs;
    for (int i = 0; i < to->blocks && ready; i++) {
        read_columns(weights, to, i * COLUMNS, &making, to->sums + i * COLUMNS);
        ready = pack(&making, &to->of[i]);
    }
    free(making.weights), free(making.loads), free(making.held), free(making.runs);
    return ready;
}

#endif
