/* Attention of many query rows over a paged arena, float32, on a CPU: prefill chunks, drafts, and groups over shared
 * prefixes.
 *
 * One item is a set of query rows against one run of blocks of one sequence. The query heads of a key head are further
 * rows. A tile is up to 48 rows; all its arithmetic has rows as the lanes of vectors: scores are kept as [key][row], so
 * that a key's or value's number is one broadcast from where it lies in the arena. Nothing is gathered, transposed (but
 * queries and results, once a tile) or padded in memory, and softmax needs no operation across lanes.
 *
 * The order of all sums is attention.h's; the caller folds scale * log2(e) into ``factor``. Causality and window are masks
 * by position; keys that no row of a tile can see are not read. See tiles.py, which owns the types and checks of this call.
 */
#include "attention.h"

#define MAX_WIDTH 256
#define TILE_ROWS 48
#define ALIGNED __attribute__((aligned(64))) /* a load that crosses a cache line costs two */

typedef struct {
    const float *query; /* [kv_heads][group][rows][d]; strides in elements below */
    const float *keys;  /* [kv_heads][slots][d] of one layer */
    const float *values;
    float *out;         /* [kv_heads][rows][group][d] */
    float *top, *total; /* [kv_heads][rows][group] */
    const float *sinks; /* [kv_heads][group], base 2; NULL: none */
    const int64_t *table;
    const int64_t *positions;                                          /* [batch rows] */
    const int64_t *rows;                                               /* rows of all items */
    const int64_t *row_ptr, *tile_ptr;                                 /* [items + 1] into rows; tiles before an item */
    const int64_t *table_start, *kv_start, *kv_len, *causal, *resumes; /* [items] */
    int64_t query_kv_stride, query_group_stride, query_row_stride;
    int64_t plane_stride; /* between key heads of keys and of values */
    int64_t out_stride, out_row_stride, state_stride; /* between key heads, rows, key heads */
    int64_t kv_heads, group, width, block_size, items;
    int64_t window; /* keys a row of a causal item sees at most; 0: all */
    int64_t closes; /* whether the rows have seen all their keys then */
    float factor, cap; /* cap: of scores, in base 2; 0: none */
} tile_args;

typedef struct {
    int64_t item, head;
    int64_t first, count;    /* matrix rows of the item: row * group + query head */
    int64_t low, high;       /* positions of the keys that some row sees */
    int64_t sees, sees_high; /* keys [sees, sees_high) are seen by all rows */
} tile;

#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

static void find_keys(const tile_args *a, tile *t) {
    const int64_t *rows = a->rows + a->row_ptr[t->item];
    t->low = t->sees = a->kv_start[t->item];
    t->high = t->sees_high = a->kv_start[t->item] + a->kv_len[t->item];
    if (!a->causal[t->item]) return;
    const int64_t early = a->positions[rows[t->first / a->group]];
    const int64_t late = a->positions[rows[(t->first + t->count - 1) / a->group]];
    t->high = MIN(t->high, late + 1);
    t->sees_high = MIN(t->sees_high, early + 1);
    if (a->window) {
        t->low = MAX(t->low, early + 1 - a->window);
        t->sees = MAX(t->sees, late + 1 - a->window);
    }
}

/* Addresses of the KEYS keys from position ``begin`` on; those before the first and behind the last are that one's, and
 * hidden. Returns how many there are up to the last, in whole vectors of weights. */
static int find_slots(const tile_args *a, const tile *t, int64_t begin, const float **key, const float **value) {
    const int64_t *blocks = a->table + a->table_start[t->item], start = a->kv_start[t->item];
    const int64_t base = t->head * a->plane_stride, before = start - start % a->block_size;
    const int64_t last = MIN(begin + KEYS, t->high) - 1;
    const int number = (int)(last + 1 - begin + LANES - 1) / LANES * LANES;
    for (int j = 0; j < number; j++) {
        const int64_t token = MIN(MAX(begin + j, t->low), last) - before;
        const int64_t at = base + (blocks[token / a->block_size] * a->block_size + token % a->block_size) * a->width;
        key[j] = a->keys + at, value[j] = a->values + at;
    }
    return number;
}

/* VECS vectors of rows; TOGETHER keys at a time for scores, AT_ONCE numbers of a value for results: what is being added up
 * stays in registers. */
#define DEFINE_TILE(VECS, TOGETHER, AT_ONCE)                                                                           \
    static void hide_##VECS(const tile_args *a, const tile *t, const ivec *position, int64_t begin, int number,        \
                            vec(*score)[VECS]) {                                                                       \
        for (int j = 0; j < number; j++) {                                                                             \
            const int32_t at = (int32_t)(begin + j), outside = at < t->low || at >= t->high;                           \
            for (int v = 0; v < VECS; v++) {                                                                           \
                ivec hidden = (position[v] < at) | -outside;                                                           \
                if (a->window) hidden |= position[v] >= at + (int32_t)a->window;                                       \
                score[j][v] = where(hidden, splat(-INFINITY), score[j][v]);                                            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    /* Partial sums ``lane`` and the one that ``sum_of`` adds to it, added. */                                         \
    static inline void pair_##VECS(int64_t width, const vec(*query)[VECS], const float **key, int lane,                \
                                   vec (*sum)[VECS]) {                                                                 \
        enum { other = LANES / 2 };                                                                                    \
        vec low[TOGETHER][VECS], high[TOGETHER][VECS];                                                                 \
        for (int k = 0; k < TOGETHER; k++)                                                                             \
            for (int v = 0; v < VECS; v++) {                                                                           \
                low[k][v] = query[lane][v] * splat(key[k][lane]);                                                      \
                high[k][v] = query[lane + other][v] * splat(key[k][lane + other]);                                     \
            }                                                                                                          \
        for (int64_t d = lane + LANES; d < width; d += LANES)                                                          \
            for (int k = 0; k < TOGETHER; k++)                                                                         \
                for (int v = 0; v < VECS; v++) {                                                                       \
                    low[k][v] = fma_of(query[d][v], splat(key[k][d]), low[k][v]);                                      \
                    high[k][v] = fma_of(query[d + other][v], splat(key[k][d + other]), high[k][v]);                    \
                }                                                                                                      \
        for (int k = 0; k < TOGETHER; k++)                                                                             \
            for (int v = 0; v < VECS; v++) sum[k][v] = low[k][v] + high[k][v];                                         \
    }                                                                                                                  \
    static void multiply_##VECS(int64_t width, const vec(*query)[VECS], const float **key, int number,                 \
                                vec(*score)[VECS]) {                                                                   \
        for (int j = 0; j < number; j += TOGETHER) {                                                                   \
            vec sum[4][TOGETHER][VECS], more[TOGETHER][VECS];                                                          \
            for (int i = 0; i < 4; i++) {                                                                              \
                pair_##VECS(width, query, key + j, i, sum[i]);                                                         \
                pair_##VECS(width, query, key + j, i + 4, more);                                                       \
                for (int k = 0; k < TOGETHER; k++)                                                                     \
                    for (int v = 0; v < VECS; v++) sum[i][k][v] += more[k][v];                                         \
            }                                                                                                          \
            for (int k = 0; k < TOGETHER; k++)                                                                         \
                for (int v = 0; v < VECS; v++)                                                                         \
                    score[j + k][v] = (sum[0][k][v] + sum[1][k][v]) + (sum[2][k][v] + sum[3][k][v]);                   \
        }                                                                                                              \
    }                                                                                                                  \
    /* Scores become weights; ``top`` and ``total`` follow; ``shrink`` is what earlier results are worth. */           \
    static void weigh_##VECS(int number, vec(*score)[VECS], vec *top, vec *total, vec *shrink) {                       \
        vec best[VECS], base[VECS];                                                                                    \
        for (int v = 0; v < VECS; v++) best[v] = top[v];                                                               \
        for (int j = 0; j < number; j++)                                                                               \
            for (int v = 0; v < VECS; v++) best[v] = max_of(score[j][v], best[v]);                                     \
        for (int v = 0; v < VECS; v++)                                                                                 \
            base[v] = where(best[v] == splat(-INFINITY), (vec){}, best[v]); /* no key yet: 0, not -inf + inf */        \
        for (int j = 0; j < number; j++)                                                                               \
            for (int v = 0; v < VECS; v++) score[j][v] = exp2_vec(score[j][v] - base[v]);                              \
        for (int v = 0; v < VECS; v++) {                                                                               \
            vec sum[LANES];                                                                                            \
            for (int l = 0; l < LANES; l++) sum[l] = score[l][v];                                                      \
            for (int j = LANES; j < number; j += LANES)                                                                \
                for (int l = 0; l < LANES; l++) sum[l] += score[j + l][v];                                             \
            for (int l = 0; l < 8; l++) sum[l] += sum[l + 8];                                                          \
            for (int l = 0; l < 4; l++) sum[l] += sum[l + 4];                                                          \
            shrink[v] = exp2_vec(top[v] - base[v]);                                                                    \
            total[v] = total[v] * shrink[v] + ((sum[0] + sum[1]) + (sum[2] + sum[3]));                                 \
            top[v] = best[v];                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void add_##VECS(int64_t width, const vec(*weight)[VECS], const float **value, int number,                   \
                           const vec *shrink, vec(*result)[VECS]) {                                                    \
        for (int64_t d = 0; d < width; d += AT_ONCE) {                                                                 \
            vec sum[AT_ONCE][VECS];                                                                                    \
            for (int k = 0; k < AT_ONCE; k++)                                                                          \
                for (int v = 0; v < VECS; v++) sum[k][v] = result[d + k][v] * shrink[v];                               \
            for (int j = 0; j < number; j++)                                                                           \
                for (int k = 0; k < AT_ONCE; k++)                                                                      \
                    for (int v = 0; v < VECS; v++) sum[k][v] = fma_of(weight[j][v], splat(value[j][d + k]), sum[k][v]); \
            for (int k = 0; k < AT_ONCE; k++)                                                                          \
                for (int v = 0; v < VECS; v++) result[d + k][v] = sum[k][v];                                           \
        }                                                                                                              \
    }                                                                                                                  \
    static void run_##VECS(const tile_args *a, const tile *t) {                                                        \
        ALIGNED vec query[MAX_WIDTH][VECS], result[MAX_WIDTH][VECS], score[KEYS][VECS];                                \
        vec top[VECS], total[VECS], shrink[VECS];                                                                      \
        ivec position[VECS];                                                                                           \
        const float *key[KEYS], *value[KEYS];                                                                          \
        load_queries(a, t, VECS * LANES, (float *)query, (int32_t *)position);                                         \
        load_state(a, t, VECS * LANES, (float *)result, (float *)top, (float *)total);                                 \
        if (t->low < t->high)                                                                                          \
            for (int64_t begin = t->low - t->low % KEYS; begin < t->high; begin += KEYS) {                             \
                const int number = find_slots(a, t, begin, key, value);                                                \
                multiply_##VECS(a->width, query, key, number, score);                                                  \
                for (int j = 0; a->cap > 0 && j < number; j++)                                                         \
                    for (int v = 0; v < VECS; v++) score[j][v] = cap_scores(score[j][v], a->cap);                      \
                if (begin < t->sees || begin + number > t->sees_high) hide_##VECS(a, t, position, begin, number, score); \
                weigh_##VECS(number, score, top, total, shrink);                                                       \
                add_##VECS(a->width, score, value, number, shrink, result);                                            \
            }                                                                                                          \
        store_state(a, t, VECS * LANES, (const float *)result, (const float *)top, (const float *)total);              \
    }

/* Queries as [d][lane], times the factor, and the rows' positions; lanes without a row repeat the last one. */
static void load_queries(const tile_args *a, const tile *t, int64_t lanes, float *query, int32_t *position) {
    const int64_t *rows = a->rows + a->row_ptr[t->item];
    for (int64_t m = 0; m < lanes; m++) {
        const int64_t at = t->first + MIN(m, t->count - 1), row = rows[at / a->group];
        const float *from = a->query + t->head * a->query_kv_stride + (at % a->group) * a->query_group_stride +
                            row * a->query_row_stride;
        for (int64_t d = 0; d < a->width; d++) query[d * lanes + m] = from[d] * a->factor;
        position[m] = (int32_t)a->positions[row];
    }
}

typedef struct {
    float *out, *top, *total;
    const float *sink;
} row_state;

static row_state state_of(const tile_args *a, const tile *t, int64_t m) {
    const int64_t row = a->rows[a->row_ptr[t->item] + (t->first + m) / a->group], g = (t->first + m) % a->group;
    const int64_t at = t->head * a->state_stride + row * a->group + g;
    return (row_state){
        .out = a->out + t->head * a->out_stride + row * a->out_row_stride + g * a->width,
        .top = a->top + at, .total = a->total + at, .sink = a->sinks ? a->sinks + t->head * a->group + g : 0,
    };
}

/* The rows' states with results as [d][lane]; a row that has seen no key has result 0, largest score -inf and total 0. */
static void load_state(const tile_args *a, const tile *t, int64_t lanes, float *result, float *top, float *total) {
    const int64_t resumes = a->resumes[t->item];
    for (int64_t d = 0; d < a->width * lanes; d++) result[d] = 0.0f;
    for (int64_t m = 0; m < lanes; m++) top[m] = -INFINITY, total[m] = 0.0f;
    for (int64_t m = 0; resumes && m < t->count; m++) {
        const row_state from = state_of(a, t, m);
        top[m] = *from.top, total[m] = *from.total;
        for (int64_t d = 0; d < a->width; d++) result[d * lanes + m] = from.out[d];
    }
}

static void store_state(const tile_args *a, const tile *t, int64_t lanes, const float *result, const float *top,
                        const float *total) {
    for (int64_t m = 0; m < t->count; m++) {
        const row_state to = state_of(a, t, m);
        for (int64_t d = 0; d < a->width; d++) to.out[d] = result[d * lanes + m];
        *to.top = top[m], *to.total = total[m];
        if (a->closes) close_row(to.out, top[m], total[m], to.sink, a->width / LANES);
    }
}

DEFINE_TILE(1, 4, 8)
DEFINE_TILE(2, 4, 8)
DEFINE_TILE(3, 4, 8)

static void run_tile(const tile_args *a, int64_t head, int64_t number) {
    int64_t low = 0, high = a->items; /* the last item with tile_ptr <= number */
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (a->tile_ptr[middle] <= number) low = middle;
        else high = middle;
    }
    tile t = {.item = low, .head = head, .first = (number - a->tile_ptr[low]) * TILE_ROWS};
    t.count = MIN(TILE_ROWS, (a->row_ptr[low + 1] - a->row_ptr[low]) * a->group - t.first);
    find_keys(a, &t);
    if (t.count <= LANES) run_1(a, &t);
    else if (t.count <= 2 * LANES) run_2(a, &t);
    else run_3(a, &t);
}

/* All tiles of all items and key heads, by so many threads. */
void quire_cpu_tiles(const tile_args *a, int64_t threads) {
    const int64_t tiles = a->tile_ptr[a->items];
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t n = 0; n < tiles * a->kv_heads; n++) run_tile(a, n / tiles, n % tiles);
}
