/* Keys and values of a head in pairs: see attention.c. */

#include "attention.h"

static void pack_keys(const work *work, const float *from, packed *to) {
    const size_t row = work->heads * work->width;
    int16_t numbers[WIDTH + COLUMNS];
    for (int key = 0; key < work->blocks * COLUMNS; key++) {
        const int there = key < work->key_count;
        to->key_scales[key] = there ? narrow_row(from + key * row, work->width, numbers) : 0;
        if (!there)
            memset(numbers, 0, sizeof numbers);
        int32_t *at = to->keys + (size_t)(key / COLUMNS) * COLUMNS * work->pairs + key % COLUMNS;
        for (int p = 0; p < work->pairs; p++)
            memcpy(at + p * COLUMNS, numbers + 2 * p, sizeof *at);
    }
}

static void pack_values(const work *work, const float *from, packed *to) {
    const size_t row = work->heads * work->value_width;
    for (int b = 0; b < work->value_blocks; b++) {
        const int first = b * COLUMNS, rest = work->value_width - first, count = rest < COLUMNS ? rest : COLUMNS;
        float most[COLUMNS], factors[COLUMNS];
        for (int i = 0; i < COLUMNS; i++)
            most[i] = 1e-30f; /* or what it divides would have no end */
        for (int key = 0; key < work->key_count; key++)
            for (int i = 0; i < count; i++) {
                const float size = fabsf(from[key * row + first + i]);
                most[i] = size > most[i] ? size : most[i];
            }
        for (int i = 0; i < COLUMNS; i++)
            factors[i] = VALUE / most[i], to->value_scales[first + i] = most[i] / VALUE;
        floats all[VECTORS];
        for (int v = 0; v < VECTORS; v++)
            all[v] = WIDE(loadu_ps)(factors + v * LANES);
        int32_t *at = to->values + (size_t)b * work->blocks * COLUMNS / 2 * COLUMNS;
        for (int key = 0; key < work->blocks * COLUMNS; key += 2, at += COLUMNS) {
            uint16_t numbers[2][COLUMNS] = {{0}};
            for (int i = 0; i < 2 && key + i < work->key_count; i++)
                for (int n = 0; n < count; n += PART)
                    narrow(from + (key + i) * row + first + n, count - n, all + n / LANES, (int16_t *)numbers[i] + n);
            for (int i = 0; i < COLUMNS; i++)
                at[i] = (int32_t)(numbers[0][i] | (uint32_t)numbers[1][i] << 16);
        }
    }
}

void pack(void *with, size_t part) {
    const work *work = with;
    const size_t sequence = part / work->heads * work->key_count, head = part % work->heads;
    pack_keys(work, work->keys + sequence * work->heads * work->width + head * work->width, &work->packed[part]);
    pack_values(work, work->values + sequence * work->heads * work->value_width + head * work->value_width,
                &work->packed[part]);
}

char *lay_out(work *work, size_t count) {
    const size_t keys = (size_t)work->blocks * COLUMNS, numbers = (size_t)work->value_blocks * COLUMNS;
    const size_t sizes[] = {keys * work->pairs * 4, keys / 2 * numbers * 4, keys * 4, numbers * 4};
    const size_t each = (sizes[0] + sizes[1] + sizes[2] + sizes[3] + 63) / 64 * 64;
    char *all = room(count * (each + sizeof *work->packed));
    work->packed = (packed *)(all + count * each);
    for (size_t i = 0; all && i < count; i++) {
        char *at = all + i * each;
        work->packed[i] = (packed){(int32_t *)at, (int32_t *)(at + sizes[0]), (float *)(at + sizes[0] + sizes[1]),
                                   (float *)(at + sizes[0] + sizes[1] + sizes[2])};
    }
    return all;
}
