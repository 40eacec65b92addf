/* Attention of single query rows over a paged arena, float32, on a CPU.
 *
 * One item is one row of the batch against one run of blocks of one sequence: all its keys, or those behind a prefix whose
 * state is there already. Blocks are read where they lie: nothing is gathered, nothing is padded, and a slot outside the
 * run is never read (it may hold NaN). The order of all sums is attention.h's; the caller folds scale * log2(e) into
 * ``factor``.
 *
 * The head dimension is a multiple of 16, one vector. Compiled at run time for the machine it runs on; see decode.py, which owns the types and checks of this call.
 */
#include "attention.h"

#define MAX_GROUP 8 /* query heads of one key head that one pass serves */
#define AHEAD 12    /* slots to prefetch ahead: blocks lie apart, where hardware does not prefetch */

typedef struct {
    const float *query; /* [kv_heads][group][rows][d]; strides in elements below */
    const float *keys;  /* [kv_heads][slots][d] of one layer */
    const float *values;
    float *out;         /* [kv_heads][rows][group][d] */
    float *top, *total; /* [kv_heads][rows][group] */
    const float *sinks; /* [kv_heads][group], base 2; NULL: none */
    const int64_t *table;
    const int64_t *row, *table_start, *kv_start, *kv_len, *resumes; /* [items] */
    int64_t query_kv_stride, query_group_stride, query_row_stride;
    int64_t plane_stride; /* between key heads of keys and of values */
    int64_t out_stride, out_row_stride, state_stride; /* between key heads, rows, key heads */
    int64_t kv_heads, group, width, block_size, items;
    float factor, cap; /* cap: of scores, in base 2; 0: none */
} decode_args;

typedef struct {
    const float *query[MAX_GROUP], *keys, *values, *sinks;
    const int64_t *blocks; /* from the one with the first key on */
    int64_t first, end;    /* positions of the keys */
    int64_t block_size, resumes;
    float factor, cap, *out, *top, *total;
} run;

#define PREFETCH(PLANE)                                                                                                \
    if (begin + j + AHEAD < r->end)                                                                                    \
        for (int c = 0; c < width; c++) __builtin_prefetch(PLANE + (slot[j + AHEAD] * width + c) * LANES);

/* One row of GROUP query heads against one run, for one key head; VECS = head dimension / 16. */
#define DEFINE_RUN(VECS, GROUP)                                                                                        \
    static void run_##VECS##_##GROUP(const run *r) {                                                                   \
        enum { width = VECS };                                                                                         \
        const int64_t size = r->block_size, base = r->first - r->first % size;                                         \
        vec q[GROUP][VECS], acc[GROUP][VECS];                                                                          \
        float top[GROUP], total[GROUP];                                                                                \
        for (int g = 0; g < GROUP; g++) {                                                                              \
            top[g] = r->resumes ? r->top[g] : -INFINITY, total[g] = r->resumes ? r->total[g] : 0.0f;                   \
            for (int c = 0; c < VECS; c++) {                                                                           \
                q[g][c] = ((const vec *)r->query[g])[c] * splat(r->factor);                                            \
                acc[g][c] = r->resumes ? ((const vec *)r->out)[g * VECS + c] : (vec){};                                \
            }                                                                                                          \
        }                                                                                                              \
        for (int64_t begin = r->first - r->first % KEYS; begin < r->end; begin += KEYS) {                              \
            const int from = begin < r->first ? (int)(r->first - begin) : 0;                                           \
            const int to = (int)(r->end - begin < KEYS ? r->end - begin : KEYS);                                       \
            float score[GROUP][KEYS] __attribute__((aligned(64)));                                                     \
            int64_t slot[KEYS + AHEAD];                                                                                \
            for (int j = from; j < KEYS + AHEAD && begin + j < r->end; j++) {                                          \
                const int64_t token = begin + j - base;                                                                \
                slot[j] = r->blocks[token / size] * size + token % size;                                               \
            }                                                                                                          \
            for (int j = from; j < to; j++) {                                                                          \
                const vec *key = (const vec *)(r->keys + slot[j] * VECS * LANES);                                      \
                PREFETCH(r->keys)                                                                                      \
                vec dot[GROUP];                                                                                        \
                for (int g = 0; g < GROUP; g++) dot[g] = q[g][0] * key[0];                                             \
                for (int c = 1; c < VECS; c++)                                                                         \
                    for (int g = 0; g < GROUP; g++) dot[g] = fma_of(q[g][c], key[c], dot[g]);                          \
                for (int g = 0; g < GROUP; g++) score[g][j] = sum_of(dot[g]);                                          \
            }                                                                                                          \
            for (int g = 0; g < GROUP; g++) {                                                                          \
                if (r->cap > 0) {                                                                                      \
                    for (int j = 0; j < from; j++) score[g][j] = 0.0f;                                                 \
                    for (int j = to; j < KEYS; j++) score[g][j] = 0.0f;                                                \
                    for (int t = 0; t < KEYS / LANES; t++)                                                             \
                        ((vec *)score[g])[t] = cap_scores(((const vec *)score[g])[t], r->cap);                         \
                }                                                                                                      \
                for (int j = 0; j < from; j++) score[g][j] = -INFINITY;                                                \
                for (int j = to; j < KEYS; j++) score[g][j] = -INFINITY;                                               \
                float best = top[g];                                                                                   \
                for (int j = from; j < to; j++) best = score[g][j] > best ? score[g][j] : best;                        \
                const float shrink = top[g] == best ? 1.0f : exp2_of(top[g] - best);                                   \
                vec sum = (vec){};                                                                                     \
                for (int t = 0; t < KEYS / LANES; t++) {                                                               \
                    vec *part = (vec *)score[g] + t;                                                                   \
                    *part = exp2_vec(*part - splat(best));                                                             \
                    sum += *part;                                                                                      \
                }                                                                                                      \
                top[g] = best;                                                                                         \
                total[g] = total[g] * shrink + sum_of(sum);                                                            \
                for (int c = 0; c < VECS; c++) acc[g][c] *= splat(shrink);                                             \
            }                                                                                                          \
            for (int j = from; j < to; j++) {                                                                          \
                const vec *value = (const vec *)(r->values + slot[j] * VECS * LANES);                                  \
                PREFETCH(r->values)                                                                                    \
                for (int c = 0; c < VECS; c++)                                                                         \
                    for (int g = 0; g < GROUP; g++) acc[g][c] = fma_of(splat(score[g][j]), value[c], acc[g][c]);       \
            }                                                                                                          \
        }                                                                                                              \
        for (int g = 0; g < GROUP; g++) {                                                                              \
            vec *out = (vec *)r->out + g * VECS;                                                                       \
            for (int c = 0; c < VECS; c++) out[c] = acc[g][c];                                                         \
            r->top[g] = top[g], r->total[g] = total[g];                                                                \
            close_row((float *)out, top[g], total[g], r->sinks ? r->sinks + g : 0, VECS);                              \
        }                                                                                                              \
    }

typedef void (*run_fn)(const run *);

#define DEFINE_WIDTH(V)                                                                                                \
    DEFINE_RUN(V, 1)                                                                                                   \
    DEFINE_RUN(V, 2)                                                                                                   \
    DEFINE_RUN(V, 4)                                                                                                   \
    DEFINE_RUN(V, 8)                                                                                                   \
    static const run_fn runs_##V[4] = {run_##V##_1, run_##V##_2, run_##V##_4, run_##V##_8};

DEFINE_WIDTH(1)
DEFINE_WIDTH(2)
DEFINE_WIDTH(3)
DEFINE_WIDTH(4)
DEFINE_WIDTH(5)
DEFINE_WIDTH(6)
DEFINE_WIDTH(8)
DEFINE_WIDTH(16)

static const run_fn *runs_of(int64_t width) {
    switch (width / LANES) {
    case 1: return runs_1;
    case 2: return runs_2;
    case 3: return runs_3;
    case 4: return runs_4;
    case 5: return runs_5;
    case 6: return runs_6;
    case 8: return runs_8;
    default: return runs_16;
    }
}

static void decode_item(const decode_args *a, int64_t head, int64_t i) {
    const run_fn *runs = runs_of(a->width);
    const int64_t row = a->row[i], plane = head * a->plane_stride;
    for (int64_t g = 0; g < a->group;) {
        const int64_t left = a->group - g, state = head * a->state_stride + row * a->group + g;
        const int power = left >= 8 ? 3 : left >= 4 ? 2 : left >= 2 ? 1 : 0;
        run r = {
            .keys = a->keys + plane, .values = a->values + plane,
            .sinks = a->sinks ? a->sinks + head * a->group + g : 0,
            .blocks = a->table + a->table_start[i],
            .first = a->kv_start[i], .end = a->kv_start[i] + a->kv_len[i],
            .block_size = a->block_size, .resumes = a->resumes[i], .factor = a->factor, .cap = a->cap,
            .out = a->out + head * a->out_stride + row * a->out_row_stride + g * a->width,
            .top = a->top + state, .total = a->total + state,
        };
        for (int k = 0; k < 1 << power; k++)
            r.query[k] = a->query + head * a->query_kv_stride + (g + k) * a->query_group_stride +
                         row * a->query_row_stride;
        runs[power](&r);
        g += 1 << power;
    }
}

/* All items, all key heads, by so many threads. Passes of 8, 4, 2 and 1 query heads serve any group. */
void quire_cpu_decode(const decode_args *a, int64_t threads) {
    const int64_t tasks = a->items * a->kv_heads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < tasks; t++) decode_item(a, t / a->items, t % a->items);
}
