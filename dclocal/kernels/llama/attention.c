/* Attention for llama.cpp on x86-64: its function ggml_compute_forward_flash_attn_ext, in less time.  How it comes into
 * the place of llama.cpp's own stands in llama_kernels.py; what it is not made for, llama.cpp's own does.
 *
 * llama.cpp transposes keys and reads the mask value by value, for each head anew, and takes fewer than 64 queries one
 * by one, in float16.  Here the places of a vector are queries, so that neither keys nor values are transposed and
 * nothing is summed across a vector; heads that share keys and values are multiplied with them together; keys that
 * nobody sees are passed over.  A query or two, as in an answer, have vectors along a head instead.  All of it is in
 * float32.
 */

#include "attention.h"
#include "theirs.h"

#include <string.h>

#define OURS ggml_compute_forward_flash_attn_ext
#define NAME "ggml_compute_forward_flash_attn_ext"

typedef void function(const parameters *, tensor *);

/* Whether this is what the above is made for: float16 keys and values, a mask for all heads and nothing besides. */
static int is_ours(const parameters *parameters, const tensor *result) {
    const tensor *queries = result->src[0], *keys = result->src[1], *values = result->src[2], *mask = result->src[3];
    float bias_and_cap[2];
    memcpy(bias_and_cap, result->op_params + 1, sizeof bias_and_cap);
    return !parameters->reference && bias_and_cap[0] == 0 && bias_and_cap[1] == 0 && mask && !result->src[4] &&
           queries->type == FLOAT32 && keys->type == FLOAT16 && values->type == FLOAT16 && mask->type == FLOAT16 &&
           keys->ne[0] == queries->ne[0] && values->ne[0] == queries->ne[0] && queries->ne[0] % 16 == 0 &&
           queries->ne[0] <= WIDTH && keys->ne[1] % KEYS == 0 && keys->ne[2] == values->ne[2] && mask->ne[2] == 1 &&
           keys->ne[3] == queries->ne[3] && values->ne[3] == queries->ne[3];
}

/* Whether a language model has had attention that ours is not made for. */
PUBLIC int attention_declined;

PUBLIC void OURS(const parameters *parameters, tensor *result) {
    if (!is_ours(parameters, result)) {
        attention_declined |= result->src[3] != NULL;
        static function *own;
        FIND_THEIRS(own, NAME);
        own(parameters, result);
        return;
    }
    const tensor *queries = result->src[0], *keys = result->src[1];
    const int shared = queries->ne[2] / keys->ne[2], heads = keys->ne[2], places = queries->ne[1] * shared;
    work work = {queries, keys, result->src[2], result->src[3], result, queries->ne[0], shared, places, 0};
    memcpy(&work.scale, result->op_params, sizeof work.scale);
    const int units = (places + TAKEN - 1) / TAKEN, all = units * heads * (int)queries->ne[3];
    for (int unit = parameters->thread; unit < all; unit += parameters->threads) {
        const part part = {unit / units / heads, unit / units % heads};
        if (places <= FEW)
            attend_few(&work, part);
        else
            attend_many(&work, part, unit % units * TAKEN);
    }
}
