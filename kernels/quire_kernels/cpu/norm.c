/* RMS normalisation of rows on a CPU, in float32, or of bfloat16 rows in float32. See norm.py, which owns the types and
 * checks of this call. */
#include "bfloat16.h"

#define SERIAL 8192 /* vectors below which waking threads costs more than they save */

typedef struct {
    const void *x;       /* [rows][width] */
    const float *weight; /* [width] */
    void *result;        /* [rows][width] */
    int64_t rows, width; /* width: a multiple of LANES */
    int64_t bfloat;      /* x and result are bfloat16 */
    int64_t rounds;      /* to bfloat16, before the weight is multiplied in */
} norm_args;

static void norm_floats(const norm_args *a, int64_t row, float eps) {
    const int64_t vectors = a->width / WIDTH;
    const vec *x = (const vec *)((const float *)a->x + row * a->width), *weight = (const vec *)a->weight;
    vec *result = (vec *)((float *)a->result + row * a->width), squares[PARTS] = {};
    for (int64_t c = 0; c < vectors; c += PARTS)
        for (int p = 0; p < PARTS; p++) squares[p] = fma_of(x[c + p], x[c + p], squares[p]);
    const vec factor = splat(1.0f / sqrtf(sum_of(squares) / (float)a->width + eps));
    for (int64_t c = 0; c < vectors; c++) result[c] = weight[c] * (x[c] * factor);
}

static void norm_bfloats(const norm_args *a, int64_t row, float eps) {
    const bf16 *x = (const bf16 *)a->x + row * a->width;
    bf16 *result = (bf16 *)a->result + row * a->width;
    vec squares[PARTS] = {};
    for (int64_t c = 0; c < a->width; c += LANES)
        for (int p = 0; p < PARTS; p++) {
            const vec value = widen(x + c + p * WIDTH);
            squares[p] = fma_of(value, value, squares[p]);
        }
    const vec factor = splat(1.0f / sqrtf(sum_of(squares) / (float)a->width + eps));
    for (int64_t c = 0; c < a->width; c += WIDTH) {
        const vec value = widen(x + c) * factor, weight = *(const vec *)(a->weight + c);
        *(bvec *)(result + c) = narrow(weight * (a->rounds ? rounded(value) : value));
    }
}

/* All rows, by so many threads. */
void quire_cpu_norm(const norm_args *a, float eps, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (a->rows * a->width >= SERIAL * LANES)
    for (int64_t row = 0; row < a->rows; row++) (a->bfloat ? norm_bfloats : norm_floats)(a, row, eps);
}
