/* Attention of single query rows over a paged arena, float32, on a CPU.
 *
 * One item is one row of the batch against one run of blocks of one sequence. Blocks are read where they lie: nothing
 * is gathered, nothing is padded, and a slot outside the run is never read (it may hold NaN). Softmax is online (Milakov
 * and Gimelshein 2018) over tiles of TILE keys, in base 2: the caller folds scale * log2(e) into ``factor``.
 *
 * The head dimension is a multiple of 16, one vector. Compiled at run time for the machine it runs on; see decode.py, which owns the types and checks of this call.
 */
#include "vectors.h"

#define TILE 64
#define MAX_GROUP 8 /* query heads of one key head that one pass serves */
#define AHEAD 12    /* slots to prefetch ahead: blocks lie apart, where hardware does not prefetch */

typedef struct {
    const float *query; /* [kv_heads][group][rows][d]; strides in elements below */
    const float *keys;  /* [kv_heads][slots][d] of one layer */
    const float *values;
    float *out; /* [kv_heads][places][group][d] */
    float *lse; /* [kv_heads][places][group] */
    const int64_t *table;
    const int64_t *row, *table_start, *kv_start, *kv_len, *place; /* [items] */
    int64_t query_kv_stride, query_group_stride, query_row_stride;
    int64_t plane_stride; /* between key heads of keys and of values */
    int64_t out_stride, out_place_stride, lse_stride; /* between key heads, places, key heads */
    int64_t kv_heads, group, width, block_size, items;
    float factor;
} decode_args;

#define PREFETCH(PLANE)                                                                                                \
    if (begin + j + AHEAD < count)                                                                                     \
        for (int c = 0; c < width; c++) __builtin_prefetch(PLANE + (slot[j + AHEAD] * width + c) * LANES);

/* One row of GROUP query heads against one run, for one key head; VECS = head dimension / 16. */
#define DEFINE_RUN(VECS, GROUP)                                                                                        \
    static void run_##VECS##_##GROUP(const float *const *query, const float *keys, const float *values,                \
                                     const int64_t *blocks, int64_t first, int64_t count, int64_t size, float factor,  \
                                     float *out, float *lse) {                                                         \
        enum { width = VECS };                                                                                         \
        vec q[GROUP][VECS], acc[GROUP][VECS];                                                                          \
        float top[GROUP], total[GROUP];                                                                                \
        for (int g = 0; g < GROUP; g++) {                                                                              \
            top[g] = -INFINITY, total[g] = 0.0f;                                                                       \
            for (int c = 0; c < VECS; c++) {                                                                           \
                q[g][c] = ((const vec *)query[g])[c] * splat(factor);                                                  \
                acc[g][c] = (vec){};                                                                                   \
            }                                                                                                          \
        }                                                                                                              \
        for (int64_t begin = 0; begin < count; begin += TILE) {                                                        \
            const int number = (int)(count - begin < TILE ? count - begin : TILE);                                     \
            float score[GROUP][TILE] __attribute__((aligned(64)));                                                     \
            int64_t slot[TILE + AHEAD];                                                                                \
            for (int j = 0; j < TILE + AHEAD && begin + j < count; j++) {                                              \
                const int64_t token = first + begin + j;                                                               \
                slot[j] = blocks[token / size] * size + token % size;                                                  \
            }                                                                                                          \
            for (int j = 0; j < number; j++) {                                                                         \
                const vec *key = (const vec *)(keys + slot[j] * VECS * LANES);                                         \
                PREFETCH(keys)                                                                                         \
                vec dot[GROUP];                                                                                        \
                for (int g = 0; g < GROUP; g++) dot[g] = q[g][0] * key[0];                                             \
                for (int c = 1; c < VECS; c++)                                                                         \
                    for (int g = 0; g < GROUP; g++) dot[g] += q[g][c] * key[c];                                        \
                for (int g = 0; g < GROUP; g++) score[g][j] = sum_of(dot[g]);                                          \
            }                                                                                                          \
            for (int g = 0; g < GROUP; g++) {                                                                          \
                for (int j = number; j < TILE; j++) score[g][j] = -INFINITY;                                           \
                float best = top[g];                                                                                   \
                for (int j = 0; j < number; j++) best = score[g][j] > best ? score[g][j] : best;                       \
                const float shrink = top[g] == best ? 1.0f : exp2f(top[g] - best);                                     \
                vec sum = (vec){};                                                                                     \
                for (int t = 0; t < TILE / LANES; t++) {                                                               \
                    vec *part = (vec *)score[g] + t;                                                                   \
                    *part = exp2_vec(*part - splat(best));                                                             \
                    sum += *part;                                                                                      \
                }                                                                                                      \
                top[g] = best;                                                                                         \
                total[g] = total[g] * shrink + sum_of(sum);                                                            \
                for (int c = 0; c < VECS; c++) acc[g][c] *= splat(shrink);                                             \
            }                                                                                                          \
            for (int j = 0; j < number; j++) {                                                                         \
                const vec *value = (const vec *)(values + slot[j] * VECS * LANES);                                     \
                PREFETCH(values)                                                                                       \
                for (int c = 0; c < VECS; c++)                                                                         \
                    for (int g = 0; g < GROUP; g++) acc[g][c] += splat(score[g][j]) * value[c];                        \
            }                                                                                                          \
        }                                                                                                              \
        for (int g = 0; g < GROUP; g++) {                                                                              \
            lse[g] = top[g] + log2f(total[g]);                                                                         \
            for (int c = 0; c < VECS; c++) ((vec *)out)[g * VECS + c] = acc[g][c] / splat(total[g]);                   \
        }                                                                                                              \
    }

typedef void (*run_fn)(const float *const *, const float *, const float *, const int64_t *, int64_t, int64_t, int64_t,
                       float, float *, float *);

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
    const float *keys = a->keys + head * a->plane_stride, *values = a->values + head * a->plane_stride;
    const int64_t *blocks = a->table + a->table_start[i];
    for (int64_t g = 0; g < a->group;) {
        const int64_t left = a->group - g;
        const int power = left >= 8 ? 3 : left >= 4 ? 2 : left >= 2 ? 1 : 0;
        const float *query[MAX_GROUP];
        for (int k = 0; k < 1 << power; k++)
            query[k] = a->query + head * a->query_kv_stride + (g + k) * a->query_group_stride +
                       a->row[i] * a->query_row_stride;
        runs[power](query, keys, values, blocks, a->kv_start[i] % a->block_size, a->kv_len[i], a->block_size,
                    a->factor, a->out + head * a->out_stride + a->place[i] * a->out_place_stride + g * a->width,
                    a->lse + head * a->lse_stride + a->place[i] * a->group + g);
        g += 1 << power;
    }
}

/* All items, all key heads, by so many threads. Passes of 8, 4, 2 and 1 query heads serve any group. */
void quire_cpu_decode(const decode_args *a, int64_t threads) {
    const int64_t tasks = a->items * a->kv_heads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < tasks; t++) decode_item(a, t / a->items, t % a->items);
}
