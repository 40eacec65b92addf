/* What the two kernels for attention have in common, so that a row comes out the same, to the last bit, from either.
 *
 * A row's keys are taken KEYS at a time, from tiles that begin at multiples of KEYS of the *position*, in ascending order.
 * Within a tile every sum has one order:
 *
 *   score     LANES partial sums over the head's units c * LANES + lane, added up as ``sum_of`` does
 *   weights   LANES partial sums over the tile's keys t * LANES + lane, added up as ``sum_of`` does
 *   values    one sum over the units of keys, ascending
 *
 * A unit is a number in float32 and a pair of them in bfloat16 (``multiply_float``, ``multiply_pair``); all sums are
 * float32. The factor on the scores is multiplied into float32 queries, and in bfloat16, where that would round, into the
 * scores; weights are rounded to bfloat16 there, before they are added up, so that they are shares of one whole.
 *
 * A key that a row does not see has weight 0, and adding 0 changes nothing. So a row's result depends on its query and
 * its keys alone: not on the rows beside it, on chunks, or on how many keys are shared. Softmax is online (Milakov and
 * Gimelshein 2018), in base 2. What is known of a row after some of its tiles is its *state* (values not yet divided, the
 * largest score, the sum of weights), in float32; another call goes on from it as if there had been one.
 */
#ifndef QUIRE_CPU_ATTENTION_H
#define QUIRE_CPU_ATTENTION_H

#include "bfloat16.h"

#define KEYS 64
#define ALIGNED __attribute__((aligned(64))) /* a load that crosses a cache line costs two */
#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

enum { rounds_float, rounds_pair }; /* whether weights and results are rounded */

static inline vec multiply_float(vec a, vec b, vec sum) { return fma_of(a, b, sum); }

static inline vec spread_float(float x) { return splat(x); }

/* Pairs of bfloat16 are multiplied as they lie in memory where the machine can, and as floats where it cannot: these are
 * read as often as they are multiplied, so they are widened before. Of each pair both products, the upper one's first. */
#if defined(__AVX512BF16__)
typedef uint32_t pair; /* of two numbers */
typedef uvec pairs;    /* one of each lane */

static inline vec multiply_pair(pairs a, pairs b, vec sum) {
    return (vec)_mm512_dpbf16_ps((__m512)sum, (__m512bh)a, (__m512bh)b);
}

static inline pairs spread_pair(pair x) { return (uvec){} + x; }
static inline pairs pairs_of(uvec packed) { return packed; }
static inline pair pair_of(const bf16 *two) {
    pair both;
    memcpy(&both, two, sizeof both);
    return both;
}
static inline pairs pairs_of_floats(vec low, vec high) { return (uvec)low >> 16 | (uvec)high; }
#else
typedef struct {
    float low, high;
} pair;
typedef struct {
    vec low, high;
} pairs;

static inline vec multiply_pair(pairs a, pairs b, vec sum) { return fma_of(a.low, b.low, fma_of(a.high, b.high, sum)); }

static inline pairs spread_pair(pair x) { return (pairs){splat(x.low), splat(x.high)}; }
static inline pairs pairs_of(uvec packed) { return (pairs){(vec)(packed << 16), (vec)(packed & 0xffff0000)}; }
static inline pair pair_of(const bf16 *two) {
    const uint32_t low = (uint32_t)two[0] << 16, high = (uint32_t)two[1] << 16;
    pair both;
    memcpy(&both.low, &low, sizeof low);
    memcpy(&both.high, &high, sizeof high);
    return both;
}
static inline pairs pairs_of_floats(vec low, vec high) { return (pairs){low, high}; }
#endif

/* ``vecs`` vectors of the numbers of two rows as pairs, the first row's below. */
static inline void zip_rows(const bf16 *low, const bf16 *high, int vecs, pairs *zipped) {
    int c = 0;
#if defined(__AVX512BF16__)
    const uvec count = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}, first = count | (count + 32) << 16;
    for (; c + 2 <= vecs; c += 2) {
        const __m512i a = _mm512_loadu_si512(low + c * WIDTH), b = _mm512_loadu_si512(high + c * WIDTH);
        zipped[c] = (uvec)_mm512_permutex2var_epi16(a, (__m512i)first, b);
        zipped[c + 1] = (uvec)_mm512_permutex2var_epi16(a, (__m512i)(first + 0x100010), b);
    }
#endif
    for (; c < vecs; c++) zipped[c] = pairs_of_floats(widen(low + c * WIDTH), widen(high + c * WIDTH));
}

static inline float exp2_of(float x) { return exp2_vec(splat(x))[0]; }

/* cap * tanh(score / cap). */
static inline vec cap_scores(vec score, float cap) {
    const vec size = where(score < (vec){}, -score, score);
    const vec power = exp2_vec(size * splat(-2.88539008177792681f / cap)), ratio = (splat(1.0f) - power) / (splat(1.0f) + power);
    return where(score < (vec){}, -ratio, ratio) * splat(cap);
}

/* Slots of the ``number`` keys from position ``begin`` on, found in the blocks from the one with position ``start`` on;
 * positions outside [low, high) have that of the nearest one inside. */
static inline void find_slots(const int64_t *blocks, int64_t size, int64_t start, int64_t low, int64_t high,
                              int64_t begin, int number, int64_t *slot) {
    const int64_t first = MAX(begin, low) - (start - start % size);
    int64_t block = first / size, place = first % size;
    for (int j = 0; j < number; j++) {
        slot[j] = blocks[block] * size + place;
        if (begin + j < low || begin + j + 1 >= high) continue;
        if (++place == size) place = 0, block++;
    }
}

/* The result, of ``rounds`` or not, of a row that has seen all its keys. A sink joins the total without a value; NULL:
 * there is none. */
static inline void close_row(const float *values, float top, float total, const float *sink, int64_t vectors, int rounds,
                             void *result) {
    float worth = 1.0f;
    if (sink) {
        const float best = top > *sink ? top : *sink;
        worth = exp2_of(top - best);
        total = total * worth + exp2_of(*sink - best);
    }
    const vec share = splat(total > 0.0f ? worth / total : 0.0f);
    for (int64_t c = 0; c < vectors; c++) {
        const vec one = ((const vec *)values)[c] * share;
        if (rounds) ((bvec *)result)[c] = narrow(one);
        else ((vec *)result)[c] = one;
    }
}

#endif
