/* Rotary positions of queries or keys, float32, on a CPU. See rotate.py, which owns the types and checks of this call.
 */
#include "vectors.h"

#define SERIAL 8192 /* vectors below which waking threads costs more than they save */

typedef struct {
    const float *x, *cos, *sin; /* [rows][heads][width], [rows][width] twice */
    float *result;              /* [rows][heads][width] */
    int64_t rows, heads, width; /* width: a multiple of 2 * LANES */
} rotate_args;

static void rotate_row(const rotate_args *a, int64_t row) {
    const int64_t half = a->width / (2 * LANES);
    const vec *cosine = (const vec *)(a->cos + row * a->width), *sine = (const vec *)(a->sin + row * a->width);
    for (int64_t head = 0; head < a->heads; head++) {
        const int64_t at = (row * a->heads + head) * a->width;
        const vec *x = (const vec *)(a->x + at);
        vec *result = (vec *)(a->result + at);
        for (int64_t c = 0; c < half; c++) {
            const vec first = x[c], second = x[c + half];
            result[c] = first * cosine[c] - second * sine[c];
            result[c + half] = second * cosine[c + half] + first * sine[c + half];
        }
    }
}

/* All rows, by so many threads. */
void quire_cpu_rotate(const rotate_args *a, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (a->rows * a->heads * a->width >= SERIAL * LANES)
    for (int64_t row = 0; row < a->rows; row++) rotate_row(a, row);
}
