/* Linear layers of rows, float32, on a CPU: x @ weight.T + bias, and silu(x @ gate.T) * (x @ up.T) of gated ones.
 *
 * A product has one order, whatever else is computed and by however many threads: sums over STRETCH inputs after another,
 * each of them added up input by input with one rounding each, and the sums added up in their order. Rows beside it and
 * its place among them change nothing: a library's products do not promise that, and do not keep it.
 *
 * Weights are packed in panels of PANEL outputs, [panel][input][PANEL], so that a product's inner loop reads them in
 * order, whole vectors at a time. Up to ROWS rows are multiplied by a panel at once, with all their sums in registers;
 * more rows read the same part of the panel again from the processor's cache. See linear.py, which owns the types and
 * checks of this call.
 */
#include <string.h>

#include "vectors.h"

#if defined(__AVX512F__)
#define VECS 4 /* 6 x 4 sums, 4 vectors of weights and a broadcast: 29 of 32 registers */
#else
#define VECS 1
#endif
#define ROWS 6
#define PANEL (VECS * LANES)
#define STRETCH 512 /* inputs: 128 KiB of a panel, which stay in the second cache */
#define BLOCK 96    /* rows of a task; a multiple of ROWS */
#define SERIAL (1 << 18) /* products below which waking threads costs more than it saves */

typedef struct {
    const float *x;                       /* [rows][inputs] */
    const float *weight, *bias;           /* packed; [outputs] or NULL */
    const float *gate, *gate_bias;        /* the same of a gated layer, or NULL */
    float *result;                        /* [rows][outputs] */
    int64_t rows, inputs, outputs;
} linear_args;

#define DEFINE_MULTIPLY(COUNT)                                                                                         \
    static void multiply_##COUNT(const float *x, int64_t stride, const float *weight, int64_t inputs,                  \
                                 vec(*sum)[VECS]) {                                                                    \
        vec part[COUNT][VECS];                                                                                         \
        for (int r = 0; r < COUNT; r++)                                                                                \
            for (int v = 0; v < VECS; v++) part[r][v] = (vec){};                                                       \
        for (int64_t i = 0; i < inputs; i++) {                                                                         \
            const vec *w = (const vec *)(weight + i * PANEL);                                                          \
            for (int r = 0; r < COUNT; r++)                                                                            \
                for (int v = 0; v < VECS; v++) part[r][v] = fma_of(splat(x[r * stride + i]), w[v], part[r][v]);        \
        }                                                                                                              \
        for (int r = 0; r < COUNT; r++)                                                                                \
            for (int v = 0; v < VECS; v++) sum[r][v] += part[r][v];                                                    \
    }

DEFINE_MULTIPLY(1)
DEFINE_MULTIPLY(2)
DEFINE_MULTIPLY(3)
DEFINE_MULTIPLY(4)
DEFINE_MULTIPLY(5)
DEFINE_MULTIPLY(6)

typedef void (*multiply_fn)(const float *, int64_t, const float *, int64_t, vec (*)[VECS]);

static const multiply_fn multiply[ROWS + 1] = {0, multiply_1, multiply_2, multiply_3, multiply_4, multiply_5,
                                               multiply_6};

/* The sums of ``rows`` rows from ``x`` on and one panel. */
static void sum_panel(const linear_args *a, const float *x, int64_t rows, const float *panel, vec (*sum)[VECS]) {
    memset(sum, 0, sizeof(vec[VECS]) * (size_t)rows);
    for (int64_t i = 0; i < a->inputs; i += STRETCH) {
        const int64_t inputs = a->inputs - i < STRETCH ? a->inputs - i : STRETCH;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int64_t count = rows - r < ROWS ? rows - r : ROWS;
            multiply[count](x + r * a->inputs + i, a->inputs, panel + i * PANEL, inputs, sum + r);
        }
    }
}

static void add_bias(const float *bias, int64_t columns, int64_t rows, vec (*sum)[VECS]) {
    float padded[PANEL] = {};
    for (int64_t c = 0; c < columns; c++) padded[c] = bias[c];
    for (int64_t r = 0; r < rows; r++)
        for (int v = 0; v < VECS; v++) sum[r][v] += ((const vec *)padded)[v];
}

/* x * sigmoid(x), by the power that cannot overflow. */
static inline vec silu(vec x) {
    const vec size = where(x < (vec){}, -x, x), power = exp2_vec(size * splat(-1.44269504088896341f));
    return x * where(x < (vec){}, power, splat(1.0f)) / (splat(1.0f) + power);
}

static void run_task(const linear_args *a, int64_t panel, int64_t first) {
    vec sum[BLOCK][VECS], gate[BLOCK][VECS];
    const int64_t rows = a->rows - first < BLOCK ? a->rows - first : BLOCK, from = panel * PANEL;
    const int64_t columns = a->outputs - from < PANEL ? a->outputs - from : PANEL;
    const float *x = a->x + first * a->inputs;
    sum_panel(a, x, rows, a->weight + from * a->inputs, sum);
    if (a->bias) add_bias(a->bias + from, columns, rows, sum);
    if (a->gate) {
        sum_panel(a, x, rows, a->gate + from * a->inputs, gate);
        if (a->gate_bias) add_bias(a->gate_bias + from, columns, rows, gate);
        for (int64_t r = 0; r < rows; r++)
            for (int v = 0; v < VECS; v++) sum[r][v] *= silu(gate[r][v]);
    }
    float *result = a->result + first * a->outputs + from;
    for (int64_t r = 0; r < rows; r++, result += a->outputs) {
        if (columns == PANEL)
            for (int v = 0; v < VECS; v++) ((vec *)result)[v] = sum[r][v];
        else
            for (int64_t c = 0; c < columns; c++) result[c] = ((const float *)sum[r])[c];
    }
}

/* Outputs of a panel: how weights are to be packed for this machine. */
int64_t quire_cpu_panel(void) { return PANEL; }

/* All rows, by so many threads. */
void quire_cpu_linear(const linear_args *a, int64_t threads) {
    const int64_t panels = (a->outputs + PANEL - 1) / PANEL, blocks = (a->rows + BLOCK - 1) / BLOCK;
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (a->rows * a->inputs * a->outputs >= SERIAL)
    for (int64_t t = 0; t < panels * blocks; t++) run_task(a, t % panels, t / panels * BLOCK);
}
