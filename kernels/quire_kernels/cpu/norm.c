/* RMS normalisation of rows, float32, on a CPU. See norm.py, which owns the types and checks of this call. */
#include "vectors.h"

#define SERIAL 8192 /* vectors below which waking threads costs more than they save */

typedef struct {
    const float *x, *weight; /* [rows][width], [width] */
    float *result;           /* [rows][width] */
    int64_t rows, width;     /* width: a multiple of LANES */
} norm_args;

static void norm_row(const norm_args *a, int64_t row, float eps) {
    const int64_t vectors = a->width / LANES;
    const vec *x = (const vec *)(a->x + row * a->width), *weight = (const vec *)a->weight;
    vec *result = (vec *)(a->result + row * a->width), squares = {};
    for (int64_t c = 0; c < vectors; c++) squares = fma_of(x[c], x[c], squares);
    const vec factor = splat(1.0f / sqrtf(sum_of(squares) / (float)a->width + eps));
    for (int64_t c = 0; c < vectors; c++) result[c] = weight[c] * (x[c] * factor);
}

/* All rows, by so many threads. */
void quire_cpu_norm(const norm_args *a, float eps, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (a->rows * a->width >= SERIAL * LANES)
    for (int64_t row = 0; row < a->rows; row++) norm_row(a, row, eps);
}
