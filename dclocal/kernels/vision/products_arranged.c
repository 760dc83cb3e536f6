/* How a matrix is arranged such that sums of six products have 16 bits: see products.c. */

#include "products.h"

#ifdef WITH_PRODUCTS

#include <string.h>

enum {
    LONGEST = 1 << 14,    /* row: its places have 16 bits, and sums are of 32 */
    BYTE = 255,           /* the greatest activation, or what is left of SUM by the heaviest pair of weights */
    SUM = 32767,          /* the greatest of 16 bits */
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

/* Reads sixteen columns, from `first` on; what there is not of them is 0.  Adds up each column's weights. */
static void read_columns(const int8_t *from, const matrix *of, int first, making *to, int32_t *sums) {
    const int count = of->columns - first < COLUMNS ? of->columns - first : COLUMNS;
    const __m128i ones = _mm_set1_epi8(1), none = _mm_setzero_si128();
    __m128i total[4] = {none, none, none, none};
    for (int quad = 0; quad < to->quads; quad++) {
        __m128i row[4];
        for (int r = 0; r < 4; r++) {
            int8_t bytes[COLUMNS] = {0};
            if (4 * quad + r < of->length)
                memcpy(bytes, from + (size_t)(4 * quad + r) * of->columns + first, count);
            row[r] = _mm_loadu_si128((const __m128i *)bytes);
        }
        for (int i = 0; i < 4; i++) { /* four columns */
            const __m128i upper = i / 2 ? _mm_unpackhi_epi8(row[0], row[1]) : _mm_unpacklo_epi8(row[0], row[1]);
            const __m128i lower = i / 2 ? _mm_unpackhi_epi8(row[2], row[3]) : _mm_unpacklo_epi8(row[2], row[3]);
            const __m128i four = i % 2 ? _mm_unpackhi_epi16(upper, lower) : _mm_unpacklo_epi16(upper, lower);
            const __m128i above = _mm_maddubs_epi16(_mm_max_epi8(four, none), ones);
            const __m128i below = _mm_maddubs_epi16(_mm_abs_epi8(_mm_min_epi8(four, none)), ones);
            _mm_storeu_si128((__m128i *)to->weights[quad] + i, four);
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

void release_matrix(void *of) {
    matrix *matrix = of;
    for (int i = 0; i < matrix->blocks; i++)
        free(matrix->of[i].weights), free(matrix->of[i].places);
    free(matrix->sums);
    free(matrix);
}

matrix *matrix_of(const ort_function *table, const ort_info *info, const char **why) {
    const tensor weights = constant_of(table, info, 1), scales = constant_of(table, info, 2);
    if (!weights.data || !scales.data || weights.rank != 2 || weights.length[0] > LONGEST ||
        (count_of(&scales, scales.rank) != 1 && count_of(&scales, scales.rank) != weights.length[1])) {
        *why = "ours is for constant weights with a scale a column, and for shorter rows";
        return NULL;
    }
    const int length = weights.length[0], columns = weights.length[1], blocks = (columns + COLUMNS - 1) / COLUMNS;
    const int quads = (length + 3) / 4, limit = SUM / heaviest(weights.data, length, columns);
    matrix *to = calloc(1, sizeof *to + blocks * sizeof(block));
    making making = {room((size_t)quads * 4 * COLUMNS), room(quads * sizeof(load)), room(quads * sizeof(load)),
                     room(quads * sizeof *making.runs), quads, SUM / (limit < BYTE ? limit : BYTE)};
    int ready = to && making.weights && making.loads && making.held && making.runs;
    if (to) {
        to->length = length, to->columns = columns, to->scales = scales.data;
        to->greatest = limit < BYTE ? limit : BYTE;
        to->shared = count_of(&scales, scales.rank) == 1;
        to->sums = room((size_t)blocks * COLUMNS * sizeof *to->sums);
        ready &= to->sums != NULL;
    }
    for (int i = 0; i < blocks && ready; i++) {
        read_columns(weights.data, to, i * COLUMNS, &making, to->sums + i * COLUMNS);
        to->blocks = i + 1;
        ready = pack(&making, &to->of[i]);
    }
    free(making.weights), free(making.loads), free(making.held), free(making.runs);
    if (to && !ready)
        release_matrix(to);
    return ready ? to : NULL;
}

#endif
