/* Vectors of floats, as wide as the machine's registers, and the functions on them that the kernels need.
 *
 * Compilers would take wider ones, and keep them in memory. What must not depend on the machine is counted in LANES, the
 * partial sums of a row: PARTS vectors.
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

#if defined(__AVX512F__)
#define WIDTH 16 /* floats of a vector */
#elif defined(__AVX__)
#define WIDTH 8
#else
#define WIDTH 4
#endif
#define LANES 16
#define PARTS (LANES / WIDTH)

typedef float vec __attribute__((vector_size(WIDTH * 4), aligned(4), may_alias));
typedef float vec8 __attribute__((vector_size(32)));
typedef float vec4 __attribute__((vector_size(16)));
typedef int32_t ivec __attribute__((vector_size(WIDTH * 4)));

static inline vec splat(float x) { return x - (vec){}; }

/* a * b + c, rounded once where the machine can; elsewhere twice, everywhere. */
static inline vec fma_of(vec a, vec b, vec c) {
#if defined(__AVX512F__)
    return (vec)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif defined(__FMA__)
    return (vec)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#elif defined(__aarch64__)
    return (vec)vfmaq_f32((float32x4_t)c, (float32x4_t)a, (float32x4_t)b);
#else
    return a * b + c;
#endif
}

static inline vec where(ivec mask, vec yes, vec no) { return (vec)((mask & (ivec)yes) | (~mask & (ivec)no)); }

static inline vec max_of(vec a, vec b) {
#if defined(__AVX512F__)
    return (vec)_mm512_max_ps((__m512)a, (__m512)b);
#elif defined(__AVX__)
    return (vec)_mm256_max_ps((__m256)a, (__m256)b);
#else
    return where(a > b, a, b);
#endif
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

/* Of the LANES floats of PARTS vectors. */
static inline float sum_of(const vec *x) {
    union {
        vec part[PARTS];
        vec8 half[2];
    } a;
    union {
        vec8 whole;
        vec4 half[2];
    } b;
    for (int p = 0; p < PARTS; p++) a.part[p] = x[p];
    b.whole = a.half[0] + a.half[1];
    const vec4 c = b.half[0] + b.half[1];
    return (c[0] + c[1]) + (c[2] + c[3]);
}

/* ``sum_of`` of each of LANES: the same additions, for many of them at once. */
static inline void sums_of(const vec (*each)[PARTS], vec *sums) {
#if defined(__AVX512F__)
    __m512 half[8], quarter[4], pair[2]; /* of 2, 4, 8 of them side by side what is left of their lanes */
    for (int i = 0; i < 8; i++) {
        const __m512 a = (__m512)each[i % 4 + i / 4 * 8][0], b = (__m512)each[i % 4 + i / 4 * 8 + 4][0];
        half[i] = _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    }
    for (int i = 0; i < 4; i++)
        quarter[i] = _mm512_add_ps(_mm512_shuffle_f32x4(half[i], half[i + 4], 0x88),
                                   _mm512_shuffle_f32x4(half[i], half[i + 4], 0xdd));
    for (int i = 0; i < 2; i++)
        pair[i] = _mm512_add_ps(_mm512_shuffle_ps(quarter[2 * i], quarter[2 * i + 1], 0x88),
                                _mm512_shuffle_ps(quarter[2 * i], quarter[2 * i + 1], 0xdd));
    *sums = (vec)_mm512_add_ps(_mm512_shuffle_ps(pair[0], pair[1], 0x88), _mm512_shuffle_ps(pair[0], pair[1], 0xdd));
#elif defined(__AVX__)
    for (int p = 0; p < PARTS; p++, each += WIDTH) {
        __m256 two[4]; /* quarters of what is left of two of them */
        for (int i = 0; i < 4; i++) {
            const __m256 a = (__m256)(each[i][0] + each[i][1]), b = (__m256)(each[i + 4][0] + each[i + 4][1]);
            two[i] = _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
        }
        sums[p] = (vec)_mm256_hadd_ps(_mm256_hadd_ps(two[0], two[1]), _mm256_hadd_ps(two[2], two[3]));
    }
#else
    for (int i = 0; i < LANES; i++) ((float *)sums)[i] = sum_of(each[i]);
#endif
}

#endif
