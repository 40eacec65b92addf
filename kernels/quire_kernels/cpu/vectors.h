/* Vectors of 16 floats, which compilers split for narrower machines, and the functions on them that the kernels need.
 *
 * A number must come out the same, to the last bit, wherever and beside whatever it is computed. So what is rounded once
 * (a product that is added) is written as ``fma_of``, and the compiler, whose choice would differ from loop to loop, may
 * fuse nothing by itself (-ffp-contract=off).
 */
#ifndef QUIRE_CPU_VECTORS_H
#define QUIRE_CPU_VECTORS_H

#include <math.h>
#include <stdint.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define LANES 16

typedef float vec __attribute__((vector_size(LANES * 4), aligned(4), may_alias));
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(LANES * 4)));

static inline vec splat(float x) { return x - (vec){}; }

/* a * b + c, rounded once where the machine can; elsewhere twice, everywhere. */
static inline vec fma_of(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    typedef union {
        vec whole;
        __m256 half[2];
    } halves;
    const halves x = {a}, y = {b};
    halves z = {c};
    for (int i = 0; i < 2; i++) z.half[i] = _mm256_fmadd_ps(x.half[i], y.half[i], z.half[i]);
    return z.whole;
#elif defined(__aarch64__)
    typedef union {
        vec whole;
        float32x4_t quarter[4];
    } quarters;
    const quarters x = {a}, y = {b};
    quarters z = {c};
    for (int i = 0; i < 4; i++) z.quarter[i] = vfmaq_f32(z.quarter[i], x.quarter[i], y.quarter[i]);
    return z.whole;
#else
    return a * b + c;
#endif
}

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
    p = fma_of(p, f, splat(1.5403530393381608e-4f));
    p = fma_of(p, f, splat(1.3333558146428443e-3f));
    p = fma_of(p, f, splat(9.6181291076284772e-3f));
    p = fma_of(p, f, splat(5.5504108664821580e-2f));
    p = fma_of(p, f, splat(2.4022650695910071e-1f));
    p = fma_of(p, f, splat(6.9314718055994531e-1f));
    p = fma_of(p, f, splat(1.0f));
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

/* ``sum_of`` of each of LANES vectors: the same additions, for all of them at once. */
static inline vec sums_of(const vec *each) {
#if defined(__AVX512F__)
    __m512 half[8], quarter[4], pair[2]; /* of 2, 4, 8 vectors side by side what is left of their lanes */
    for (int i = 0; i < 8; i++) {
        const __m512 a = (__m512)each[i % 4 + i / 4 * 8], b = (__m512)each[i % 4 + i / 4 * 8 + 4];
        half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    for (int i = 0; i < 4; i++)
        quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(half[i], half[i + 4], 0x88),
                                   _mm512_shuffle_f32x4(half[i], half[i + 4], 0xdd));
    for (int i = 0; i < 2; i++)
        pair[i] = _mm512_add_ps(_mm512_shuffle_ps(quarter[2 * i], quarter[2 * i + 1], 0x88),
                                _mm512_shuffle_ps(quarter[2 * i], quarter[2 * i + 1], 0xdd));
    return (vec)_mm512_add_ps(_mm512_shuffle_ps(pair[0], pair[1], 0x88), _mm512_shuffle_ps(pair[0], pair[1], 0xdd));
#else
    vec sums;
    for (int i = 0; i < LANES; i++) sums[i] = sum_of(each[i]);
    return sums;
#endif
}

#endif
