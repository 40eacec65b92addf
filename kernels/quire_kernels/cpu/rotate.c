/* Rotary positions of queries or keys on a CPU, in float32, or in bfloat16 with every operation rounded to it. See
 * rotate.py, which owns the types and checks of this call. */
#include "bfloat16.h"

#define SERIAL 8192 /* vectors below which waking threads costs more than they save */

typedef struct {
    const void *x, *cos, *sin;  /* [rows][heads][width], [rows][width] twice */
    void *result;               /* [rows][heads][width] */
    int64_t rows, heads, width; /* width: a multiple of 2 * LANES */
    int64_t bfloat;             /* all are */
} rotate_args;

static void rotate_floats(const rotate_args *a, int64_t row) {
    const int64_t half = a->width / (2 * WIDTH);
    const vec *cosine = (const vec *)((const float *)a->cos + row * a->width);
    const vec *sine = (const vec *)((const float *)a->sin + row * a->width);
    for (int64_t head = 0; head < a->heads; head++) {
        const int64_t at = (row * a->heads + head) * a->width;
        const vec *x = (const vec *)((const float *)a->x + at);
        vec *result = (vec *)((float *)a->result + at);
        for (int64_t c = 0; c < half; c++) {
            const vec first = x[c], second = x[c + half];
            result[c] = first * cosine[c] - second * sine[c];
            result[c + half] = second * cosine[c + half] + first * sine[c + half];
        }
    }
}

static void rotate_bfloats(const rotate_args *a, int64_t row) {
    const int64_t half = a->width / 2;
    const bf16 *cosine = (const bf16 *)a->cos + row * a->width, *sine = (const bf16 *)a->sin + row * a->width;
    for (int64_t head = 0; head < a->heads; head++) {
        const int64_t at = (row * a->heads + head) * a->width;
        const bf16 *x = (const bf16 *)a->x + at;
        bf16 *result = (bf16 *)a->result + at;
        for (int64_t c = 0; c < half; c += WIDTH) {
            const vec first = widen(x + c), second = widen(x + c + half);
            const vec turned = rounded(second * widen(sine + c));
            *(bvec *)(result + c) = narrow(rounded(first * widen(cosine + c)) - turned);
            const vec other = rounded(first * widen(sine + c + half));
            *(bvec *)(result + c + half) = narrow(rounded(second * widen(cosine + c + half)) + other);
        }
    }
}

/* All rows, by so many threads. */
void quire_cpu_rotate(const rotate_args *a, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (a->rows * a->heads * a->width >= SERIAL * LANES)
    for (int64_t row = 0; row < a->rows; row++) (a->bfloat ? rotate_bfloats : rotate_floats)(a, row);
}
