/* MultiHeadAttention in 16 bits: processors multiply such numbers and add pairs of them in 32 bits up to twice as fast
 * as they multiply float32.  Queries, keys and probabilities have up to fifteen bits and values eleven, without their
 * signs, which is a hundred times as near to float32 as the eight bits of a vision transformer's other products.
 *
 * A query's scores stand side by side, and so do the numbers of its result: keys lie in memory by pairs of a head's
 * numbers, one of each of COLUMNS keys; values by pairs of keys, of COLUMNS numbers of a head.  Both products are the
 * same function then.  Scores of a few queries with all keys are held at a time, and no sum can overflow. */

#include "attention.h"

enum {
    TOGETHER = 6,          /* queries: as many as registers hold sums of */
    HALF = TOGETHER / 2,
    QUERIES = 8 * TOGETHER /* that one thread takes at a time */
};

/* Adds products of pairs to sums of 32 bits: compilers would move these to other registers and back, or to memory. */
#ifndef MULTIPLY_PAIRS
#if defined(WIDE_512)
#define MULTIPLY_PAIRS(to, left, right) __asm__("vpdpwssd %2, %1, %0" : "+v"(to) : "v"(left), "v"(right))
#elif defined(__AVXVNNI__)
#define MULTIPLY_PAIRS(to, left, right) __asm__("%{vex%} vpdpwssd %2, %1, %0" : "+x"(to) : "x"(left), "x"(right))
#else
#define MULTIPLY_PAIRS(to, left, right) \
    __asm__("vpaddd %1, %0, %0" : "+x"(to) : "x"(_mm256_madd_epi16(left, right)))
#endif
#endif

typedef struct { int heads; float scale; } settings;

/* TOGETHER rows of pairs, `stride` pairs apart, times `vectors` of columns of them. */
INLINE void multiply(const int32_t *left, size_t stride, const int32_t *right, int pairs, int vectors, integers *to) {
    const int32_t *lower = left + HALF * stride; /* or each row would need a register for its place */
    integers sums[TOGETHER][VECTORS]; /* in registers: none of these loops is left */
#pragma GCC unroll 6
    for (int r = 0; r < TOGETHER; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            sums[r][v] = WIDE(set1_epi32)(0);
    for (int p = 0; p < pairs; p++, left++, lower++, right += COLUMNS) {
        integers columns[VECTORS];
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            columns[v] = LOAD(right + v * LANES);
#pragma GCC unroll 6
        for (int r = 0; r < TOGETHER; r++) {
            const integers both = WIDE(set1_epi32)(r < HALF ? left[r * stride] : lower[(r - HALF) * stride]);
#pragma GCC unroll 4
            for (int v = 0; v < vectors; v++)
                MULTIPLY_PAIRS(sums[r][v], both, columns[v]);
        }
    }
#pragma GCC unroll 6
    for (int r = 0; r < TOGETHER; r++)
#pragma GCC unroll 4
        for (int v = 0; v < vectors; v++)
            STORE(to + r * VECTORS + v, sums[r][v]);
}

/* 2 to the power of what is not greater than 16, to five digits: probabilities have no more. */
INLINE floats power(floats of) {
    const floats rounding = WIDE(set1_ps)(12582912.0f); /* added to it, a number has no room for a fraction */
    of = WIDE(max_ps)(of, WIDE(set1_ps)(-100));
    const floats whole = WIDE(add_ps)(of, rounding), rest = WIDE(sub_ps)(of, WIDE(sub_ps)(whole, rounding));
    static const float factors[] = {9.57010155e-3f, 5.59178603e-2f, 0.240247448f, 0.693121815f, 0.999999261f};
    floats sum = WIDE(set1_ps)(factors[0]);
    for (int i = 1; i < 5; i++)
        sum = WIDE(fmadd_ps)(sum, rest, WIDE(set1_ps)(factors[i]));
    return AS_FLOATS(WIDE(add_epi32)(AS_INTEGERS(sum), WIDE(slli_epi32)(AS_INTEGERS(whole), 23)));
}

/* Scores of TOGETHER queries with all keys, as powers of 2, the least there are for keys that are not there; finds the
 * greatest of each query. */
INLINE void score(const work *work, const packed *head, const int32_t *queries, const float *scales, float *scores,
                  floats *most) {
    const size_t width = (size_t)work->blocks * COLUMNS;
    for (int r = 0; r < TOGETHER; r++)
        most[r] = WIDE(set1_ps)(-FLT_MAX);
    for (int b = 0; b < work->blocks; b++) {
        const int32_t *right = head->keys + (size_t)b * COLUMNS * work->pairs;
        const int rest = work->key_count - b * COLUMNS;
        integers sums[TOGETHER][VECTORS];
        if (rest > COLUMNS - LANES)
            multiply(queries, work->pairs, right, work->pairs, VECTORS, sums[0]);
        else /* the last keys, of which there are few */
            for (int v = 0; v < VECTORS; v++)
                multiply(queries, work->pairs, right + v * LANES, v * LANES < rest ? work->pairs : 0, 1, &sums[0][v]);
        for (int v = 0; v < VECTORS; v++) {
            const int first = b * COLUMNS + v * LANES;
            const floats keys = WIDE(loadu_ps)(head->key_scales + first);
            for (int r = 0; r < TOGETHER; r++) {
                const floats scale = WIDE(mul_ps)(keys, WIDE(set1_ps)(scales[r]));
                WIDE(storeu_ps)(scores + r * width + first, WIDE(mul_ps)(WIDE(cvtepi32_ps)(sums[r][v]), scale));
            }
        }
        for (int r = 0; r < TOGETHER; r++) {
            float *row = scores + r * width + b * COLUMNS;
            for (int i = rest; i < COLUMNS; i++)
                row[i] = -FLT_MAX;
            for (int v = 0; v < VECTORS; v++)
                most[r] = WIDE(max_ps)(most[r], WIDE(loadu_ps)(row + v * LANES));
        }
    }
}

/* A row of scores as probabilities in 16 bits, the greatest PROBABILITY; returns what they add up to. */
INLINE float weigh(const float *scores, int count, float most, int16_t *to) {
    const floats top = WIDE(set1_ps)(log2f(PROBABILITY));
    integers total = WIDE(set1_epi32)(0);
    for (int i = 0; i < count; i += PART) {
        integers whole[2];
        for (int v = 0; v < 2; v++) {
            const floats less = WIDE(sub_ps)(WIDE(loadu_ps)(scores + i + v * LANES), WIDE(set1_ps)(most));
            whole[v] = WIDE(cvtps_epi32)(power(WIDE(add_ps)(less, top))); /* in this order, for scores in thousands */
        }
        total = WIDE(add_epi32)(total, WIDE(add_epi32)(whole[0], whole[1]));
        store_narrow(to + i, whole[0], whole[1]);
    }
    int32_t each[LANES], sum = 0;
    STORE(each, total);
    for (int i = 0; i < LANES; i++)
        sum += each[i];
    return sum;
}

/* The results of TOGETHER queries, of which `count` are written, `row` numbers apart. */
INLINE void add_values(const work *work, const packed *head, const int32_t *probabilities, const float *totals,
                       float *to, size_t row, int count) {
    const size_t stride = (size_t)work->blocks * COLUMNS / 2;
    const int pairs = (work->key_count + 1) / 2;
    for (int b = 0; b < work->value_blocks; b++) {
        float results[TOGETHER][COLUMNS] = {{0}};
        for (int p = 0; p < pairs; p += RUN) {
            integers sums[TOGETHER][VECTORS];
            multiply(probabilities + p, stride, head->values + (b * stride + p) * COLUMNS,
                     pairs - p < RUN ? pairs - p : RUN, VECTORS, sums[0]);
            for (int r = 0; r < TOGETHER; r++)
                for (int v = 0; v < VECTORS; v++) {
                    float *at = results[r] + v * LANES;
                    WIDE(storeu_ps)(at, WIDE(add_ps)(WIDE(loadu_ps)(at), WIDE(cvtepi32_ps)(sums[r][v])));
                }
        }
        const int first = b * COLUMNS, rest = work->value_width - first, wide = rest < COLUMNS ? rest : COLUMNS;
        for (int r = 0; r < count; r++)
            for (int i = 0; i < wide; i++)
                to[r * row + first + i] = results[r][i] * head->value_scales[first + i] / totals[r];
    }
}

/* QUERIES of a head, or what there is of them. */
static void attend(void *with, size_t part) {
    work *work = with;
    const int64_t parts = (work->query_count + QUERIES - 1) / QUERIES, head = part / parts % work->heads;
    const int64_t start = part % parts * QUERIES, sequence = part / parts / work->heads * work->query_count;
    const int64_t end = start + QUERIES < work->query_count ? start + QUERIES : work->query_count;
    const size_t row = work->heads * work->width, result_row = work->heads * work->value_width;
    const size_t keys = (size_t)work->blocks * COLUMNS, weighed = (work->key_count + PART - 1) / PART * PART;
    const packed *packed = &work->packed[part / parts];
    float *scores = room(TOGETHER * keys * sizeof *scores);
    int16_t *probabilities = room(TOGETHER * keys * sizeof *probabilities);
    if (!scores || !probabilities)
        work->failed = 1;
    for (int64_t first = start; first < end && scores && probabilities; first += TOGETHER) {
        const int count = end - first < TOGETHER ? end - first : TOGETHER;
        int16_t numbers[TOGETHER][WIDTH + COLUMNS];
        int32_t queries[TOGETHER * WIDTH / 2];
        float scales[TOGETHER], totals[TOGETHER];
        floats most[TOGETHER];
        for (int r = 0; r < TOGETHER; r++) { /* queries behind the last are it once more */
            const int64_t query = sequence + first + (r < count ? r : count - 1);
            const float *from = work->queries + query * row + head * work->width;
            scales[r] = narrow_row(from, work->width, numbers[r]) * work->scale;
            memcpy(queries + r * work->pairs, numbers[r], work->pairs * sizeof *queries);
        }
        score(work, packed, queries, scales, scores, most);
        for (int r = 0; r < TOGETHER; r++)
            totals[r] = weigh(scores + r * keys, weighed, greatest(most[r]), probabilities + r * keys);
        add_values(work, packed, (const int32_t *)probabilities, totals,
                   work->result + (sequence + first) * result_row + head * work->value_width, result_row, count);
    }
    free(scores), free(probabilities);
}

static void *make(const ort_function *table, const ort_info *info, const char **why) {
    settings *made = malloc(sizeof *made);
    if (!made)
        return NULL;
    *made = (settings){integer_of(table, info, "num_heads", 0), float_of(table, info, "scale", 0)};
    if (made->heads > 0 && !integer_of(table, info, "unidirectional", 0))
        return made;
    *why = "ours is for queries that see all keys";
    free(made);
    return NULL;
}

static const char *calculate(void *made, computation *in) {
    const settings *settings = made;
    const tensor queries = input_of(in, 0), keys = input_of(in, 1), values = input_of(in, 2);
    const int64_t heads = settings->heads;
    if (in->failed)
        return NULL;
    if (queries.rank != 3 || keys.rank != 3 || values.rank != 3 || queries.length[2] != keys.length[2] ||
        queries.length[2] % heads || queries.length[2] / heads > WIDTH || values.length[2] % heads ||
        keys.length[1] != values.length[1] || keys.length[1] < 1 || keys.length[1] > 1 << 16 ||
        queries.length[0] != keys.length[0] || keys.length[0] != values.length[0])
        return "attention by ours is for [batch, tokens, heads x numbers], at most 256 numbers a head";
    work work = {
        .queries = queries.data, .keys = keys.data, .values = values.data, .query_count = queries.length[1],
        .key_count = keys.length[1], .heads = heads, .width = queries.length[2] / heads,
        .value_width = values.length[2] / heads, .blocks = (keys.length[1] + COLUMNS - 1) / COLUMNS,
    };
    work.pairs = (work.width + 1) / 2;
    work.value_blocks = (work.value_width + COLUMNS - 1) / COLUMNS;
    work.scale = (settings->scale ? settings->scale : 1 / sqrtf(work.width)) * 1.44269504f; /* powers of 2, not of e */
    const int64_t shape[] = {queries.length[0], work.query_count, values.length[2]};
    work.result = output_of(in, shape, 3);
    const size_t packs = queries.length[0] * heads;
    char *memory = in->failed ? NULL : lay_out(&work, packs);
    if (memory) {
        in_parallel(in, pack, packs, &work);
        in_parallel(in, attend, packs * ((work.query_count + QUERIES - 1) / QUERIES), &work);
    }
    free(memory);
    return memory && !work.failed ? NULL : "there is no memory";
}

static const int types[] = {FLOAT32, FLOAT32, FLOAT32};
static const int kinds[] = {REQUIRED, REQUIRED, REQUIRED};
own attention = {
    .name = "MultiHeadAttention", .types = types, .kinds = kinds, .inputs = 3,
    .make = make, .release = free, .calculate = calculate,
};
