/* Vectors of 16 floats, which compilers split for narrower machines, and the functions on them that attention needs. */
#ifndef QUIRE_CPU_VECTORS_H
#define QUIRE_CPU_VECTORS_H

#include <math.h>
#include <stdint.h>

#define LANES 16

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));

static inline vec splat(float x) { return x - (vec){}; }

static inline vec where(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

static inline vec max_of(vec a, vec b) {
    vec larger;
    for (int i = 0; i < LANES; i++) larger[i] = a[i] > b[i] ? a[i] : b[i];
    return larger;
}

/* 2**x for x <= 0: the fraction by its Taylor polynomial (relative error under 1e-7), the rest as exponent bits. Below
 * -126.5 the result is 0. */
static inline vec exp2_vec(vec x) {
    const vec magic = splat(12582912.0f); /* adding 1.5 * 2**23 rounds to the nearest integer */
    x = max_of(x, splat(-127.0f));        /* exponent bits 0 */
    const vec rounded = (x + magic) - magic, f = x - rounded;
    vec p = splat(1.5252733804059841e-5f);
    p = p * f + splat(1.5403530393381608e-4f);
    p = p * f + splat(1.3333558146428443e-3f);
    p = p * f + splat(9.6181291076284772e-3f);
    p = p * f + splat(5.5504108664821580e-2f);
    p = p * f + splat(2.4022650695910071e-1f);
    p = p * f + splat(6.9314718055994531e-1f);
    p = p * f + splat(1.0f);
    return (vec)((__builtin_convertvector(rounded, ivec) + 127) << 23) * p;
}

static inline float sum_of(vec x) {
    union {
        vec whole;
        vec8 half[2];
    } a = {x};
    union {
        vec8 whole;
        vec4 half[2];
    } b = {a.half[0] + a.half[1]};
    const vec4 c = b.half[0] + b.half[1];
    return (c[0] + c[1]) + (c[2] + c[3]);
}

#endif
