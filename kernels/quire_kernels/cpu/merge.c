/* Merging partial attention results of each row, float32, on a CPU.
 *
 * A row's result is the mean of its partial ones, weighted by 2 ** lse. An empty partial result (lse -inf) has no weight
 * whatever it holds, and a row of empty ones gives 0. A sink joins the denominator without a value. See merge.py,
 * which owns the types and checks of this call.
 */
#include "vectors.h"

#define SERIAL 4096 /* vectors below which waking threads costs more than they save */

typedef struct {
    const float *out;     /* [kv_heads][places][group][width] */
    const float *lse;     /* [kv_heads][places][group], base 2 */
    const float *sinks;   /* [kv_heads][group], base 2; NULL: none */
    const int64_t *index; /* [rows][most] places */
    float *result;        /* [rows][kv_heads][group][width] */
    int64_t out_stride, lse_stride; /* between key heads */
    int64_t kv_heads, group, width, rows, most, places;
} merge_args;

static void merge_head(const merge_args *a, const int64_t *index, int64_t head, int64_t g, float *result) {
    const float *lse = a->lse + head * a->lse_stride + g, *out = a->out + head * a->out_stride + g * a->width;
    const int64_t vectors = a->width / LANES;
    float top = a->sinks ? a->sinks[head * a->group + g] : -INFINITY, total = 0.0f;
    for (int64_t k = 0; k < a->most; k++)
        if (lse[index[k] * a->group] > top) top = lse[index[k] * a->group];
    if (a->sinks && top > -INFINITY) total = exp2f(a->sinks[head * a->group + g] - top);
    vec sum[16] = {};
    for (int64_t k = 0; k < a->most; k++) {
        if (lse[index[k] * a->group] == -INFINITY) continue;
        const float weight = exp2f(lse[index[k] * a->group] - top);
        const vec *part = (const vec *)(out + index[k] * a->group * a->width);
        total += weight;
        for (int64_t c = 0; c < vectors; c++) sum[c] += splat(weight) * part[c];
    }
    const vec share = splat(total > 0.0f ? 1.0f / total : 0.0f);
    for (int64_t c = 0; c < vectors; c++) ((vec *)result)[c] = sum[c] * share;
}

static void merge_row(const merge_args *a, int64_t row) {
    float *result = a->result + row * a->kv_heads * a->group * a->width;
    for (int64_t head = 0; head < a->kv_heads; head++)
        for (int64_t g = 0; g < a->group; g++, result += a->width)
            merge_head(a, a->index + row * a->most, head, g, result);
}

/* All rows, by so many threads. 0; or 1, and nothing is read, if there is no such place. */
int32_t quire_cpu_merge(const merge_args *a, int64_t threads) {
    for (int64_t i = 0; i < a->rows * a->most; i++)
        if (a->index[i] < 0 || a->index[i] >= a->places) return 1;
    const int64_t vectors = a->rows * a->most * a->kv_heads * a->group * (a->width / LANES);
#pragma omp parallel for num_threads(threads) if (vectors >= SERIAL)
    for (int64_t row = 0; row < a->rows; row++) merge_row(a, row);
    return 0;
}
