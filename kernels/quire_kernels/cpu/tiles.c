/* Attention of many query rows over a paged arena, float32, on a CPU: prefill chunks, and groups over shared prefixes.
 *
 * One item is a set of query rows against one run of blocks of one sequence. The query heads of a key head are further
 * rows. A tile is up to 48 rows; all its arithmetic has rows as the lanes of vectors: scores are kept as [key][row], so
 * that a key's or value's number is one broadcast from where it lies in the arena. Nothing is gathered, transposed (but
 * queries and results, once a tile) or padded in memory, and softmax needs no operation across lanes.
 *
 * Softmax is online (Milakov and Gimelshein 2018) over tiles of KEYS keys, in base 2: the caller folds
 * scale * log2(e) into ``factor``. Causality and window are masks by position; keys that no row of a tile can see are
 * not read. See tiles.py, which owns the types and checks of this call.
 */
#include "vectors.h"

#define KEYS 64
#define MAX_WIDTH 256
#define TILE_ROWS 48
#define ALIGNED __attribute__((aligned(64))) /* a load that crosses a cache line costs two */

typedef struct {
    const float *query; /* [kv_heads][group][rows][d]; strides in elements below */
    const float *keys;  /* [kv_heads][slots][d] of one layer */
    const float *values;
    float *out; /* [kv_heads][places][group][d] */
    float *lse; /* [kv_heads][places][group] */
    const int64_t *table;
    const int64_t *positions;                                       /* [batch rows] */
    const int64_t *rows;                                            /* rows of all items */
    const int64_t *row_ptr, *tile_ptr;                              /* [items + 1] into rows; tiles before an item */
    const int64_t *table_start, *kv_start, *kv_len, *causal, *place; /* [items] */
    int64_t query_kv_stride, query_group_stride, query_row_stride;
    int64_t plane_stride; /* between key heads of keys and of values */
    int64_t out_stride, out_place_stride, lse_stride; /* between key heads, places, key heads */
    int64_t kv_heads, group, width, block_size, items;
    int64_t window; /* keys a row of a causal item sees at most; 0: all */
    float factor;
} tile_args;

typedef struct {
    int64_t item, head;
    int64_t first, count;    /* matrix rows of the item: row * group + query head */
    int64_t low, high;       /* keys of the item that some row sees */
    int64_t sees, sees_high; /* keys [sees, sees_high) are seen by all rows */
} tile;

#define MAX(a, b) ((a) > (b) ? (a) : (b))
#define MIN(a, b) ((a) < (b) ? (a) : (b))

static void find_keys(const tile_args *a, tile *t) {
    const int64_t *rows = a->rows + a->row_ptr[t->item], start = a->kv_start[t->item];
    t->low = t->sees = 0;
    t->high = t->sees_high = a->kv_len[t->item];
    if (!a->causal[t->item]) return;
    const int64_t early = a->positions[rows[t->first / a->group]];
    const int64_t late = a->positions[rows[(t->first + t->count - 1) / a->group]];
    t->high = MIN(t->high, late + 1 - start);
    t->sees_high = MIN(t->sees_high, early + 1 - start);
    if (a->window) {
        t->low = MAX(0, early + 1 - a->window - start);
        t->sees = MAX(0, late + 1 - a->window - start);
    }
}

/* Addresses of the tile's keys from ``begin`` on; the last one stands in for those behind the end. */
static int find_slots(const tile_args *a, const tile *t, int64_t begin, const float **key, const float **value) {
    const int64_t *blocks = a->table + a->table_start[t->item], skip = a->kv_start[t->item] % a->block_size;
    const int64_t base = t->head * a->plane_stride;
    const int number = (int)MIN(KEYS, t->high - begin);
    for (int j = 0; j < number; j++) {
        const int64_t token = skip + begin + j;
        const int64_t at = base + (blocks[token / a->block_size] * a->block_size + token % a->block_size) * a->width;
        key[j] = a->keys + at, value[j] = a->values + at;
    }
    for (int j = number; j < KEYS; j++) key[j] = key[number - 1];
    return number;
}

/* VECS vectors of rows; AT_ONCE keys, or numbers of a value, at a time: their products stay in registers. */
#define DEFINE_TILE(VECS, AT_ONCE)                                                                                     \
    static void hide_##VECS(const tile_args *a, const tile *t, const ivec *position, int64_t begin, int number,        \
                            vec(*score)[VECS]) {                                                                       \
        for (int j = 0; j < number; j++) {                                                                             \
            const int32_t at = (int32_t)(a->kv_start[t->item] + begin + j);                                            \
            for (int v = 0; v < VECS; v++) {                                                                           \
                ivec hidden = position[v] < at;                                                                        \
                if (a->window) hidden |= position[v] >= at + (int32_t)a->window;                                       \
                score[j][v] = where(hidden, splat(-INFINITY), score[j][v]);                                            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void multiply_##VECS(int64_t width, const vec(*query)[VECS], const float **key, int number,                 \
                                vec(*score)[VECS]) {                                                                   \
        for (int j = 0; j < number; j += AT_ONCE) {                                                                    \
            vec sum[AT_ONCE][VECS];                                                                                    \
            for (int k = 0; k < AT_ONCE; k++)                                                                          \
                for (int v = 0; v < VECS; v++) sum[k][v] = (vec){};                                                    \
            for (int64_t d = 0; d < width; d++)                                                                        \
                for (int k = 0; k < AT_ONCE; k++)                                                                      \
                    for (int v = 0; v < VECS; v++) sum[k][v] += query[d][v] * splat(key[j + k][d]);                    \
            for (int k = 0; k < AT_ONCE; k++)                                                                          \
                for (int v = 0; v < VECS; v++) score[j + k][v] = sum[k][v];                                            \
        }                                                                                                              \
    }                                                                                                                  \
    /* Scores become weights; ``top`` and ``total`` follow; ``shrink`` is what earlier results are worth. */           \
    static void weigh_##VECS(int number, vec(*score)[VECS], vec *top, vec *total, vec *shrink) {                       \
        vec best[VECS], base[VECS], sum[VECS];                                                                         \
        for (int v = 0; v < VECS; v++) best[v] = top[v];                                                               \
        for (int j = 0; j < number; j++)                                                                               \
            for (int v = 0; v < VECS; v++) best[v] = max_of(score[j][v], best[v]);                                     \
        for (int v = 0; v < VECS; v++) {                                                                               \
            base[v] = where(best[v] == splat(-INFINITY), (vec){}, best[v]); /* no key yet: 0, not -inf + inf */        \
            sum[v] = (vec){};                                                                                          \
        }                                                                                                              \
        for (int j = 0; j < number; j++)                                                                               \
            for (int v = 0; v < VECS; v++) sum[v] += score[j][v] = exp2_vec(score[j][v] - base[v]);                    \
        for (int v = 0; v < VECS; v++) {                                                                               \
            shrink[v] = exp2_vec(top[v] - base[v]);                                                                    \
            total[v] = total[v] * shrink[v] + sum[v];                                                                  \
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
                    for (int v = 0; v < VECS; v++) sum[k][v] += weight[j][v] * splat(value[j][d + k]);                 \
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
        for (int v = 0; v < VECS; v++) top[v] = splat(-INFINITY), total[v] = (vec){};                                  \
        for (int64_t d = 0; d < a->width; d++)                                                                         \
            for (int v = 0; v < VECS; v++) result[d][v] = (vec){};                                                     \
        for (int64_t begin = t->low; begin < t->high; begin += KEYS) {                                                 \
            const int number = find_slots(a, t, begin, key, value);                                                    \
            multiply_##VECS(a->width, query, key, number, score);                                                      \
            if (begin < t->sees || begin + number > t->sees_high) hide_##VECS(a, t, position, begin, number, score);   \
            weigh_##VECS(number, score, top, total, shrink);                                                           \
            add_##VECS(a->width, score, value, number, shrink, result);                                                \
        }                                                                                                              \
        store_results(a, t, VECS * LANES, (const float *)result, (const float *)top, (const float *)total);            \
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

/* Results [d][lane] go to the rows' places; a row that saw no key has result 0 and log-sum-exp -inf. */
static void store_results(const tile_args *a, const tile *t, int64_t lanes, const float *result, const float *top,
                          const float *total) {
    float *lse = a->lse + t->head * a->lse_stride + a->place[t->item] * a->group + t->first;
    for (int64_t m = 0; m < t->count; m++) {
        const float share = total[m] > 0.0f ? 1.0f / total[m] : 0.0f;
        const int64_t place = a->place[t->item] + (t->first + m) / a->group, g = (t->first + m) % a->group;
        float *out = a->out + t->head * a->out_stride + place * a->out_place_stride + g * a->width;
        for (int64_t d = 0; d < a->width; d++) out[d] = result[d * lanes + m] * share;
        lse[m] = total[m] > 0.0f ? top[m] + log2f(total[m]) : -INFINITY;
    }
}

DEFINE_TILE(1, 8)
DEFINE_TILE(2, 8)
DEFINE_TILE(3, 8)

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
