/* bfloat16 numbers beside vectors of floats: widened exactly, rounded to the nearest and of two to the even one.
 *
 * A float is a bfloat16 and 16 bits more, so widening is a shift on every machine. Two neighbours are a pair, the lower
 * one in the lower half of 32 bits, as processors with AVX512-BF16 multiply them.
 */
#ifndef QUIRE_CPU_BFLOAT16_H
#define QUIRE_CPU_BFLOAT16_H

#include <string.h>

#include "vectors.h"

typedef uint16_t bf16;
typedef uint16_t bvec __attribute__((vector_size(WIDTH * 2), aligned(2), may_alias));
typedef uint32_t uvec __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));

static inline vec widen(const bf16 *x) { return (vec)(__builtin_convertvector(*(const bvec *)x, uvec) << 16); }

static inline bvec narrow(vec x) {
#if defined(__AVX512BF16__)
    return (bvec)_mm512_cvtneps_pbh((__m512)x);
#else
    const uvec bits = (uvec)x, even = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
    return __builtin_convertvector((uvec)where(x == x, (vec)even, (vec)(uvec)((uvec){} + 0x7fc0)), bvec);
#endif
}

/* The nearest bfloat16, as a float: what is left of a number that was stored and read again. */
static inline vec rounded(vec x) { return (vec)(__builtin_convertvector(narrow(x), uvec) << 16); }

#endif
