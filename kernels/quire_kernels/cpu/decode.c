/* Attention of single query rows over a paged arena, float32 or bfloat16, on a CPU.
 *
 * One item is one row of the batch against one run of blocks of one sequence: all its keys, or those behind a prefix whose
 * state is there already. Blocks are read where they lie: nothing is gathered, nothing is padded, and a slot outside the
 * run is never read (it may hold NaN). The order of all sums is attention.h's; the caller folds scale * log2(e) into
 * ``factor``.
 *
 * The head dimension is a multiple of LANES. Compiled at run time for the machine it runs on; see decode.py,
 * which owns the types and checks of this call.
 */
#include "attention.h"

#define MAX_GROUP 8 /* query heads of one key head that one pass serves */
#define AHEAD 12    /* slots to prefetch ahead: blocks lie apart, where hardware does not prefetch */
#define LINE 64     /* bytes */
#define APART __attribute__((noinline))
#define INLINE __attribute__((always_inline))
#if defined(__AVX512F__)
#define SUMS 1024 /* vectors of results that are added to at once: all there are, registers and cache together */
#elif defined(__aarch64__)
#define SUMS 24 /* what stays in registers */
#else
#define SUMS 12
#endif
#define AT_ONCE(NUMBERS, GROUP) MIN((NUMBERS) / WIDTH, SUMS / (GROUP)) /* of each head */

typedef struct {
    const void *query;         /* [kv_heads][group][rows][d]; strides in elements below */
    const void *keys, *values; /* [kv_heads][slots][d] of one layer */
    void *result;              /* [kv_heads][rows][group][d], of the dtype of the above */
    float *out;                /* the same of states */
    float *top, *total;        /* [kv_heads][rows][group] */
    const float *sinks;        /* [kv_heads][group], base 2; NULL: none */
    const int64_t *table;
    const int64_t *row, *table_start, *kv_start, *kv_len, *resumes; /* [items] */
    int64_t query_kv_stride, query_group_stride, query_row_stride;
    int64_t plane_stride;                             /* between key heads of keys and of values */
    int64_t out_stride, out_row_stride, state_stride; /* between key heads, rows, key heads */
    int64_t kv_heads, group, width, block_size, items;
    float factor, cap; /* cap: of scores, in base 2; 0: none */
} decode_args;

typedef struct {
    const void *query[MAX_GROUP], *keys, *values;
    const float *sinks, *out;
    const int64_t *blocks; /* from the one with the first key on */
    int64_t first, end;    /* positions of the keys */
    int64_t block_size, resumes;
    float factor, cap, *top, *total;
    void *result;
} run;

/* A key or value of ``bytes``. */
static inline void prefetch(const void *plane, int64_t slot, int bytes) {
    for (int at = 0; at < bytes; at += LINE) __builtin_prefetch((const char *)plane + slot * bytes + at);
}

/* What a row of ``width`` numbers of a head is in units: vectors of them, how it is read, and how a query is. */
#define VECTORS_float(NUMBERS) ((NUMBERS) / WIDTH)
#define VECTORS_pair(NUMBERS) (((NUMBERS) / 2 + WIDTH - 1) / WIDTH)

static inline vec units_float(const float *row, int c, int width) {
    (void)width;
    return ((const vec *)row)[c];
}

static inline pairs units_pair(const bf16 *row, int c, int width) {
    if (2 * WIDTH * (c + 1) <= width) return pairs_of(((const uvec *)row)[c]);
    uvec half = {}; /* the row ends within the vector */
    memcpy(&half, row + 2 * WIDTH * c, WIDTH * sizeof(bf16));
    return pairs_of(half);
}

static inline vec query_float(const float *row, int c, int width, float factor) {
    return units_float(row, c, width) * splat(factor);
}

static inline pairs query_pair(const bf16 *row, int c, int width, float factor) {
    (void)factor;
    return units_pair(row, c, width);
}

/* Weights, which are rounded already, as pairs. */
static inline void pair_weights(const float *weight, pair *pairs) {
#if defined(__AVX512BF16__)
    for (int t = 0; t < KEYS / WIDTH; t++) ((bvec *)pairs)[t] = narrow(((const vec *)weight)[t]);
#else
    memcpy(pairs, weight, KEYS * sizeof(float));
#endif
}

/* Values of the keys ``from`` to ``to``, times their weights, added to the results of GROUP heads: to ``count`` of their
 * vectors from the one ``first`` on. */
#define DEFINE_COLUMNS(NUMBERS, GROUP)                                                                                 \
    static inline INLINE void columns_float_##NUMBERS##_##GROUP(                                                       \
        const float *values, const int64_t *slot, int from, int to, const float (*weight)[KEYS], int first, int count, \
        vec (*sum)[AT_ONCE(NUMBERS, GROUP)]) {                                                                         \
        for (int j = from; j < to; j++) {                                                                              \
            const vec *value = (const vec *)(values + slot[j] * NUMBERS) + first;                                      \
            if (!first) prefetch(values, slot[j + AHEAD], NUMBERS * sizeof(float));                                    \
            for (int c = 0; c < count; c++)                                                                            \
                for (int g = 0; g < GROUP; g++) sum[g][c] = fma_of(splat(weight[g][j]), value[c], sum[g][c]);          \
        }                                                                                                              \
    }                                                                                                                  \
    static inline INLINE void columns_pair_##NUMBERS##_##GROUP(                                                        \
        const bf16 *values, const int64_t *slot, int from, int to, const pair (*weight)[KEYS / 2], int first, int count, \
        vec (*sum)[AT_ONCE(NUMBERS, GROUP)]) {                                                                         \
        for (int j = from / 2 * 2; j < to; j += 2) {                                                                   \
            pairs value[AT_ONCE(NUMBERS, GROUP)];                                                                      \
            const bf16 *low = values + slot[j] * NUMBERS, *high = values + slot[j + 1] * NUMBERS;                      \
            zip_rows(low + first * WIDTH, high + first * WIDTH, count, value);                                         \
            if (!first) prefetch(values, slot[j + AHEAD], NUMBERS * sizeof(bf16));                                     \
            if (!first) prefetch(values, slot[j + 1 + AHEAD], NUMBERS * sizeof(bf16));                                 \
            for (int g = 0; g < GROUP; g++)                                                                            \
                for (int c = 0; c < count; c++)                                                                        \
                    sum[g][c] = multiply_pair(value[c], spread_pair(weight[g][j / 2]), sum[g][c]);                     \
        }                                                                                                              \
    }

/* The same for all their vectors. Every number of vectors is one that the compiler knows: it keeps them in registers. */
#define DEFINE_ALL_COLUMNS(TYPE, NUMBER, WEIGHT, EACH, NUMBERS, GROUP)                                                 \
    static inline INLINE void some_##TYPE##_##NUMBERS##_##GROUP(                                                       \
        const NUMBER *values, const int64_t *slot, int from, int to, const WEIGHT (*weight)[KEYS / EACH], int first,   \
        int count, vec (*acc)[NUMBERS / WIDTH]) {                                                                      \
        vec sum[GROUP][AT_ONCE(NUMBERS, GROUP)];                                                                       \
        for (int g = 0; g < GROUP; g++)                                                                                \
            for (int c = 0; c < count; c++) sum[g][c] = acc[g][first + c];                                             \
        columns_##TYPE##_##NUMBERS##_##GROUP(values, slot, from, to, weight, first, count, sum);                       \
        for (int g = 0; g < GROUP; g++)                                                                                \
            for (int c = 0; c < count; c++) acc[g][first + c] = sum[g][c];                                             \
    }                                                                                                                  \
    static inline void all_##TYPE##_##NUMBERS##_##GROUP(                                                               \
        const NUMBER *values, const int64_t *slot, int from, int to, const WEIGHT (*weight)[KEYS / EACH],              \
        vec (*acc)[NUMBERS / WIDTH]) {                                                                                 \
        enum { vecs = NUMBERS / WIDTH, once = AT_ONCE(NUMBERS, GROUP), last = vecs % once };                           \
        if (once == vecs) {                                                                                            \
            columns_##TYPE##_##NUMBERS##_##GROUP(values, slot, from, to, weight, 0, once, (vec(*)[once])acc);          \
            return;                                                                                                    \
        }                                                                                                              \
        for (int c = 0; c + once <= vecs; c += once)                                                                   \
            some_##TYPE##_##NUMBERS##_##GROUP(values, slot, from, to, weight, c, once, acc);                           \
        if (last) some_##TYPE##_##NUMBERS##_##GROUP(values, slot, from, to, weight, vecs - last, last, acc);           \
    }

#define DEFINE_ADD(NUMBERS, GROUP)                                                                                     \
    DEFINE_COLUMNS(NUMBERS, GROUP)                                                                                     \
    DEFINE_ALL_COLUMNS(float, float, float, 1, NUMBERS, GROUP)                                                         \
    DEFINE_ALL_COLUMNS(pair, bf16, pair, 2, NUMBERS, GROUP)                                                            \
    static inline void add_float_##NUMBERS##_##GROUP(const float *values, const int64_t *slot, int from, int to,       \
                                                     const float (*weight)[KEYS], vec (*acc)[NUMBERS / WIDTH]) {       \
        all_float_##NUMBERS##_##GROUP(values, slot, from, to, weight, acc);                                            \
    }                                                                                                                  \
    static inline void add_pair_##NUMBERS##_##GROUP(const bf16 *values, const int64_t *slot, int from, int to,         \
                                                    const float (*weight)[KEYS], vec (*acc)[NUMBERS / WIDTH]) {        \
        ALIGNED pair shares[GROUP][KEYS / 2];                                                                          \
        for (int g = 0; g < GROUP; g++) pair_weights(weight[g], shares[g]);                                            \
        all_pair_##NUMBERS##_##GROUP(values, slot, from, to, shares, acc);                                             \
    }

/* What follows depends on neither width nor group, and is compiled once. */

/* Scores of LANES keys from the partial sums of each. */
APART static void score_keys(const run *r, const vec (*dot)[PARTS], int rounds, vec *score) {
    sums_of(dot, score);
    for (int p = 0; p < PARTS; p++) {
        if (rounds) score[p] *= splat(r->factor);
        if (r->cap > 0) score[p] = cap_scores(score[p], r->cap);
    }
}

/* Scores of a tile's keys, of which ``from`` to ``to`` are seen, become weights; ``top`` and ``total`` follow. Returns what
 * earlier results are worth. */
APART static float weigh(float *score, int from, int to, int rounds, float *top, float *total) {
    for (int j = 0; j < from; j++) score[j] = -INFINITY;
    for (int j = to; j < KEYS; j++) score[j] = -INFINITY;
    vec most = splat(*top), sum[PARTS] = {};
    for (int t = 0; t < KEYS / WIDTH; t++) most = max_of(((const vec *)score)[t], most);
    float best = *top;
    for (int l = 0; l < WIDTH; l++) best = most[l] > best ? most[l] : best;
    const float shrink = *top == best ? 1.0f : exp2_of(*top - best);
    for (int t = 0; t < KEYS / WIDTH; t++) {
        vec *part = (vec *)score + t;
        *part = exp2_vec(*part - splat(best));
        if (rounds) *part = rounded(*part);
        sum[t % PARTS] += *part;
    }
    *top = best, *total = *total * shrink + sum_of(sum);
    return shrink;
}

APART static void close_head(const run *r, const float *values, int g, int width, int rounds, void *result) {
    close_row(values, r->top[g], r->total[g], r->sinks ? r->sinks + g : 0, width / WIDTH, rounds, result);
}

APART static void find_run_slots(const run *r, int64_t begin, int number, int64_t *slot) {
    find_slots(r->blocks, r->block_size, r->first, r->first, r->end, begin, number, slot);
}

/* One row of GROUP query heads of dimension NUMBERS against one run, for one key head. */
#define DEFINE_RUN(TYPE, NUMBER, UNITS, NUMBERS, GROUP)                                                                \
    static void run_##TYPE##_##NUMBERS##_##GROUP(const run *r) {                                                       \
        enum { vecs = NUMBERS / WIDTH, vectors = VECTORS_##TYPE(NUMBERS) };                                            \
        UNITS q[GROUP][vectors];                                                                                       \
        vec acc[GROUP][vecs];                                                                                          \
        float top[GROUP], total[GROUP];                                                                                \
        for (int g = 0; g < GROUP; g++) {                                                                              \
            top[g] = r->resumes ? r->top[g] : -INFINITY, total[g] = r->resumes ? r->total[g] : 0.0f;                   \
            for (int c = 0; c < vectors; c++) q[g][c] = query_##TYPE(r->query[g], c, NUMBERS, r->factor);              \
            for (int c = 0; c < vecs; c++) acc[g][c] = r->resumes ? ((const vec *)r->out)[g * vecs + c] : (vec){};     \
        }                                                                                                              \
        for (int64_t begin = r->first - r->first % KEYS; begin < r->end; begin += KEYS) {                              \
            const int from = begin < r->first ? (int)(r->first - begin) : 0;                                           \
            const int to = (int)(r->end - begin < KEYS ? r->end - begin : KEYS);                                       \
            ALIGNED float score[GROUP][KEYS];                                                                          \
            int64_t slot[KEYS + AHEAD];                                                                                \
            find_run_slots(r, begin, KEYS + AHEAD, slot);                                                              \
            for (int t = from / LANES; t * LANES < to; t++) {                                                          \
                vec dot[GROUP][LANES][PARTS];                                                                          \
                for (int j = 0; j < LANES; j++) {                                                                      \
                    const NUMBER *key = (const NUMBER *)r->keys + slot[t * LANES + j] * NUMBERS;                       \
                    prefetch(r->keys, slot[t * LANES + j + AHEAD], NUMBERS * sizeof(NUMBER));                          \
                    for (int p = 0; p < PARTS; p++) {                                                                  \
                        vec sum[GROUP];                                                                                \
                        for (int g = 0; g < GROUP; g++) sum[g] = (vec){};                                              \
                        for (int c = p; c < vectors; c += PARTS) {                                                     \
                            const UNITS k = units_##TYPE(key, c, NUMBERS);                                             \
                            for (int g = 0; g < GROUP; g++) sum[g] = multiply_##TYPE(q[g][c], k, sum[g]);              \
                        }                                                                                              \
                        for (int g = 0; g < GROUP; g++) dot[g][j][p] = sum[g];                                         \
                    }                                                                                                  \
                }                                                                                                      \
                for (int g = 0; g < GROUP; g++) score_keys(r, dot[g], rounds_##TYPE, (vec *)(score[g] + t * LANES));   \
            }                                                                                                          \
            for (int g = 0; g < GROUP; g++) {                                                                          \
                const float shrink = weigh(score[g], from, to, rounds_##TYPE, top + g, total + g);                     \
                for (int c = 0; c < vecs; c++) acc[g][c] *= splat(shrink);                                             \
            }                                                                                                          \
            add_##TYPE##_##NUMBERS##_##GROUP(r->values, slot, from, to, score, acc);                                   \
        }                                                                                                              \
        for (int g = 0; g < GROUP; g++) {                                                                              \
            r->top[g] = top[g], r->total[g] = total[g];                                                                \
            close_head(r, (const float *)acc[g], g, NUMBERS, rounds_##TYPE, (NUMBER *)r->result + g * NUMBERS);        \
        }                                                                                                              \
    }

typedef void (*run_fn)(const run *);

#define DEFINE_GROUP(V, G)                                                                                             \
    DEFINE_ADD(V, G)                                                                                                   \
    DEFINE_RUN(float, float, vec, V, G)                                                                                \
    DEFINE_RUN(pair, bf16, pairs, V, G)
#define DEFINE_WIDTH(V)                                                                                                \
    DEFINE_GROUP(V, 1)                                                                                                 \
    DEFINE_GROUP(V, 2)                                                                                                 \
    DEFINE_GROUP(V, 3)                                                                                                 \
    DEFINE_GROUP(V, 4)                                                                                                 \
    DEFINE_GROUP(V, 8)                                                                                                 \
    static const run_fn runs_##V[2][MAX_GROUP + 1] = {                                                                 \
        {0, run_float_##V##_1, run_float_##V##_2, run_float_##V##_3, run_float_##V##_4, 0, 0, 0, run_float_##V##_8},   \
        {0, run_pair_##V##_1, run_pair_##V##_2, run_pair_##V##_3, run_pair_##V##_4, 0, 0, 0, run_pair_##V##_8}};

DEFINE_WIDTH(16)
DEFINE_WIDTH(32)
DEFINE_WIDTH(48)
DEFINE_WIDTH(64)
DEFINE_WIDTH(80)
DEFINE_WIDTH(96)
DEFINE_WIDTH(128)
DEFINE_WIDTH(256)

static const run_fn *runs_of(int64_t width, int rounds) {
    switch (width) {
    case 16: return runs_16[rounds];
    case 32: return runs_32[rounds];
    case 48: return runs_48[rounds];
    case 64: return runs_64[rounds];
    case 80: return runs_80[rounds];
    case 96: return runs_96[rounds];
    case 128: return runs_128[rounds];
    default: return runs_256[rounds];
    }
}

static void decode_item(const decode_args *a, int rounds, int64_t head, int64_t i) {
    const run_fn *runs = runs_of(a->width, rounds);
    const int64_t row = a->row[i], bytes = rounds ? sizeof(bf16) : sizeof(float), plane = head * a->plane_stride * bytes;
    for (int64_t g = 0; g < a->group;) {
        const int64_t left = a->group - g, heads = left >= 8 ? 8 : left >= 4 ? 4 : left;
        const int64_t state = head * a->state_stride + row * a->group + g;
        const int64_t out = head * a->out_stride + row * a->out_row_stride + g * a->width;
        run r = {
            .keys = (const char *)a->keys + plane, .values = (const char *)a->values + plane,
            .sinks = a->sinks ? a->sinks + head * a->group + g : 0,
            .blocks = a->table + a->table_start[i],
            .first = a->kv_start[i], .end = a->kv_start[i] + a->kv_len[i],
            .block_size = a->block_size, .resumes = a->resumes[i], .factor = a->factor, .cap = a->cap,
            .out = a->out + out, .top = a->top + state, .total = a->total + state,
            .result = (char *)a->result + out * bytes,
        };
        for (int k = 0; k < heads; k++)
            r.query[k] = (const char *)a->query + bytes * (head * a->query_kv_stride + (g + k) * a->query_group_stride +
                                                           row * a->query_row_stride);
        runs[heads](&r);
        g += heads;
    }
}

/* All items, all key heads, by so many threads. Passes of 8, 4, 3, 2 and 1 query heads serve any group. */
static void decode(const decode_args *a, int rounds, int64_t threads) {
    const int64_t tasks = a->items * a->kv_heads;
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t t = 0; t < tasks; t++) decode_item(a, rounds, t / a->items, t % a->items);
}

void quire_cpu_decode_float32(const decode_args *a, int64_t threads) { decode(a, rounds_float, threads); }
void quire_cpu_decode_bfloat16(const decode_args *a, int64_t threads) { decode(a, rounds_pair, threads); }

/* Whether pairs of bfloat16 are multiplied by an instruction of their own, not widened: by that linear.c reads rows, too. */
int64_t quire_cpu_multiplies_pairs(void) {
#if defined(__AVX512BF16__)
    return 1;
#else
    return 0;
#endif
}
