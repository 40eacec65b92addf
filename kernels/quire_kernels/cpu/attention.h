/* What the two kernels for attention have in common, so that a row comes out the same, to the last bit, from either.
 *
 * A row's keys are taken KEYS at a time, from tiles that begin at multiples of KEYS of the *position*, in ascending order.
 * Within a tile every sum has one order:
 *
 *   score     LANES partial sums over the head's numbers c * LANES + lane, added up as ``sum_of`` does
 *   weights   LANES partial sums over the tile's keys t * LANES + lane, added up as ``sum_of`` does
 *   values    one sum over the keys, ascending
 *
 * A key that a row does not see has weight 0, and adding 0 changes nothing. So a row's result depends on its query and
 * its keys alone: not on the rows beside it, on chunks, or on how many keys are shared. Softmax is online (Milakov and
 * Gimelshein 2018), in base 2. What is known of a row after some of its tiles is its *state* (values not yet divided, the
 * largest score, the sum of weights); another call goes on from it as if there had been one.
 */
#ifndef QUIRE_CPU_ATTENTION_H
#define QUIRE_CPU_ATTENTION_H

#include "vectors.h"

#define KEYS 64

static inline float exp2_of(float x) { return exp2_vec(splat(x))[0]; }

/* cap * tanh(score / cap). */
static inline vec cap_scores(vec score, float cap) {
    const vec size = where(score < (vec){}, -score, score);
    const vec power = exp2_vec(size * splat(-2.88539008177792681f / cap)), ratio = (splat(1.0f) - power) / (splat(1.0f) + power);
    return where(score < (vec){}, -ratio, ratio) * splat(cap);
}

/* The result of a row that has seen all its keys. A sink joins the total without a value; NULL: there is none. */
static inline void close_row(float *out, float top, float total, const float *sink, int64_t vectors) {
    float worth = 1.0f;
    if (sink) {
        const float best = top > *sink ? top : *sink;
        worth = exp2_of(top - best);
        total = total * worth + exp2_of(*sink - best);
    }
    const vec share = splat(total > 0.0f ? worth / total : 0.0f);
    for (int64_t c = 0; c < vectors; c++) ((vec *)out)[c] *= share;
}

#endif
