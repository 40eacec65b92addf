/* Linear layers of rows on a CPU: x @ weight.T + bias, and silu(x @ gate.T) * (x @ up.T) of gated ones, in float32, or in
 * bfloat16 with sums in float32.
 *
 * A product has one order, whatever else is computed and by however many threads: sums over STRETCH inputs after another,
 * each of them added up input by input (bfloat16: pair by pair), and the sums added up in their order. Rows beside it and
 * its place among them change nothing: a library's products do not promise that, and do not keep it.
 *
 * Weights are packed in panels of PANEL outputs, [panel][input][PANEL], of bfloat16 [panel][pair][PANEL][2], so that a
 * product's inner loop reads them in order, whole vectors at a time. Up to ROWS rows are multiplied by a panel at once,
 * with all their sums in registers; more rows read the same part of the panel again from the processor's cache. A call is
 * of several parts (products of the same rows, or experts with rows of their own), whose panels threads take in turn. See
 * linear.py, which owns the types and checks of this call.
 */
#include <string.h>

#include "bfloat16.h"

#if defined(__AVX512F__)
#define VECS 4 /* 6 x 4 sums, 4 vectors of weights and a broadcast: 29 of 32 registers */
#elif defined(__AVX__)
#define VECS 2 /* 6 x 2 sums, 2 vectors of weights and a broadcast: 15 of 16 */
#else
#define VECS 4
#endif
#define ROWS 6
#define PANEL (VECS * WIDTH)
#define STRETCH 512 /* inputs: 128 KiB of a panel, which stay in the second cache; even */
#define BLOCK 96    /* rows of a task; a multiple of ROWS */
#define SERIAL (1 << 18) /* products below which waking threads costs more than it saves */

typedef struct {
    const void *x;                 /* [rows][inputs] */
    const void *weight, *gate;     /* packed; gate: of a gated layer, or NULL */
    const float *bias, *gate_bias; /* [outputs] or NULL */
    void *result;                  /* [rows][outputs] */
    int64_t rows, outputs;
    int64_t first; /* task; for this file */
} linear_part;

typedef struct {
    linear_part *parts;
    int64_t count, inputs, bfloat; /* of all parts */
} linear_args;

/* One input: weights are floats. */
static inline void add_one(const float *x, int64_t stride, const void *weight, int64_t i, int count,
                           vec (*part)[VECS]) {
    const vec *w = (const vec *)((const float *)weight + i * PANEL);
    for (int r = 0; r < count; r++)
        for (int v = 0; v < VECS; v++) part[r][v] = fma_of(splat(x[r * stride + i]), w[v], part[r][v]);
}

#if defined(__AVX512BF16__)
typedef bf16 factor; /* what rows are multiplied as where weights are bfloat16 */

static inline void add_pair(const factor *x, int64_t stride, const void *weight, int64_t i, int count,
                            vec (*part)[VECS]) {
    const __m512i *w = (const __m512i *)((const bf16 *)weight + i * PANEL);
    for (int r = 0; r < count; r++) {
        int pair;
        memcpy(&pair, x + r * stride + i, sizeof pair);
        for (int v = 0; v < VECS; v++)
            part[r][v] = (vec)_mm512_dpbf16_ps((__m512)part[r][v], (__m512bh)_mm512_set1_epi32(pair),
                                               (__m512bh)_mm512_loadu_si512(w + v));
    }
}
#else
typedef float factor; /* widened by the caller, once for all panels */

static inline void add_pair(const factor *x, int64_t stride, const void *weight, int64_t i, int count,
                            vec (*part)[VECS]) {
    const uvec *w = (const uvec *)((const bf16 *)weight + i * PANEL);
    for (int v = 0; v < VECS; v++) {
        const vec low = (vec)(w[v] << 16), high = (vec)(w[v] & 0xffff0000);
        for (int r = 0; r < count; r++) {
            part[r][v] = fma_of(splat(x[r * stride + i + 1]), high, part[r][v]); /* as those processors do: this one first */
            part[r][v] = fma_of(splat(x[r * stride + i]), low, part[r][v]);
        }
    }
}
#endif

#define DEFINE_MULTIPLY(NAME, TYPE, STEP, ADD, COUNT)                                                                  \
    static void NAME##_##COUNT(const void *x, int64_t stride, const void *weight, int64_t inputs, vec(*sum)[VECS]) {   \
        vec part[COUNT][VECS];                                                                                         \
        for (int r = 0; r < COUNT; r++)                                                                                \
            for (int v = 0; v < VECS; v++) part[r][v] = (vec){};                                                       \
        for (int64_t i = 0; i < inputs; i += STEP) ADD((const TYPE *)x, stride, weight, i, COUNT, part);               \
        for (int r = 0; r < COUNT; r++)                                                                                \
            for (int v = 0; v < VECS; v++) sum[r][v] += part[r][v];                                                    \
    }
#define DEFINE_ROWS(...)                                                                                               \
    DEFINE_MULTIPLY(__VA_ARGS__, 1)                                                                                    \
    DEFINE_MULTIPLY(__VA_ARGS__, 2)                                                                                    \
    DEFINE_MULTIPLY(__VA_ARGS__, 3)                                                                                    \
    DEFINE_MULTIPLY(__VA_ARGS__, 4)                                                                                    \
    DEFINE_MULTIPLY(__VA_ARGS__, 5)                                                                                    \
    DEFINE_MULTIPLY(__VA_ARGS__, 6)

DEFINE_ROWS(floats, float, 1, add_one)
DEFINE_ROWS(pairs, factor, 2, add_pair)

typedef void (*multiply_fn)(const void *, int64_t, const void *, int64_t, vec (*)[VECS]);

static const multiply_fn multiply[2][ROWS + 1] = {{0, floats_1, floats_2, floats_3, floats_4, floats_5, floats_6},
                                                  {0, pairs_1, pairs_2, pairs_3, pairs_4, pairs_5, pairs_6}};

/* The sums of ``rows`` rows from ``x`` on and one panel. */
static void sum_panel(const linear_args *a, const char *x, int64_t rows, const char *panel, vec (*sum)[VECS]) {
    const int64_t wide = a->bfloat ? sizeof(factor) : sizeof(float), weight = a->bfloat ? sizeof(bf16) : sizeof(float);
    memset(sum, 0, sizeof(vec[VECS]) * (size_t)rows);
    for (int64_t i = 0; i < a->inputs; i += STRETCH) {
        const int64_t inputs = a->inputs - i < STRETCH ? a->inputs - i : STRETCH;
        for (int64_t r = 0; r < rows; r += ROWS) {
            const int64_t count = rows - r < ROWS ? rows - r : ROWS;
            multiply[a->bfloat][count](x + (r * a->inputs + i) * wide, a->inputs, panel + i * PANEL * weight, inputs,
                                       sum + r);
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

/* silu(gate) * up; of bfloat16 each is rounded where modelling code stores it. */
static inline vec gated(vec up, vec gate, int64_t bfloat) {
    return bfloat ? rounded(up) * rounded(silu(rounded(gate))) : up * silu(gate);
}

static void store(const linear_args *a, void *result, int64_t at, int64_t columns, const vec *sum) {
    if (a->bfloat) {
        bvec narrowed[VECS];
        for (int v = 0; v < VECS; v++) narrowed[v] = narrow(sum[v]);
        memcpy((bf16 *)result + at, narrowed, sizeof(bf16) * (size_t)columns);
    } else
        memcpy((float *)result + at, sum, sizeof(float) * (size_t)columns);
}

static void run_task(const linear_args *a, const linear_part *p, int64_t panel, int64_t first) {
    vec sum[BLOCK][VECS], gate[BLOCK][VECS];
    const int64_t rows = p->rows - first < BLOCK ? p->rows - first : BLOCK, from = panel * PANEL;
    const int64_t columns = p->outputs - from < PANEL ? p->outputs - from : PANEL;
    const int64_t weight = from * a->inputs * (a->bfloat ? sizeof(bf16) : sizeof(float));
    const char *x = (const char *)p->x + first * a->inputs * (a->bfloat ? sizeof(factor) : sizeof(float));
    sum_panel(a, x, rows, (const char *)p->weight + weight, sum);
    if (p->bias) add_bias(p->bias + from, columns, rows, sum);
    if (p->gate) {
        sum_panel(a, x, rows, (const char *)p->gate + weight, gate);
        if (p->gate_bias) add_bias(p->gate_bias + from, columns, rows, gate);
        for (int64_t r = 0; r < rows; r++)
            for (int v = 0; v < VECS; v++) sum[r][v] = gated(sum[r][v], gate[r][v], a->bfloat);
    }
    for (int64_t r = 0; r < rows; r++) store(a, p->result, (first + r) * p->outputs + from, columns, sum[r]);
}

static inline int64_t panels_of(const linear_part *p) { return (p->outputs + PANEL - 1) / PANEL; }

/* Number the tasks; returns how many there are. ``work``: the products of all. */
static int64_t number_tasks(const linear_args *a, int64_t *work) {
    int64_t tasks = 0;
    *work = 0;
    for (int64_t i = 0; i < a->count; i++) {
        linear_part *p = a->parts + i;
        p->first = tasks;
        tasks += panels_of(p) * ((p->rows + BLOCK - 1) / BLOCK);
        *work += p->rows * a->inputs * p->outputs;
    }
    return tasks;
}

/* The last part that begins at ``task`` or before it. */
static const linear_part *part_of(const linear_args *a, int64_t task) {
    int64_t low = 0, high = a->count;
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (a->parts[middle].first <= task)
            low = middle;
        else
            high = middle;
    }
    return a->parts + low;
}

/* Outputs of a panel: how weights are to be packed for this machine. */
int64_t quire_cpu_panel(void) { return PANEL; }

/* All parts, by so many threads. */
void quire_cpu_linear(const linear_args *a, int64_t threads) {
    int64_t work;
    const int64_t tasks = number_tasks(a, &work);
#pragma omp parallel for num_threads(threads) schedule(dynamic) if (work >= SERIAL)
    for (int64_t t = 0; t < tasks; t++) {
        const linear_part *p = part_of(a, t);
        run_task(a, p, (t - p->first) % panels_of(p), (t - p->first) / panels_of(p) * BLOCK);
    }
}
