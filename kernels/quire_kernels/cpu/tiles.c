/* Attention of many query rows over a paged arena, float32 or bfloat16, on a CPU: prefill chunks, drafts, and groups over
 * shared prefixes.
 *
 * One item is a set of query rows against one run of blocks of one sequence. The query heads of a key head are further
 * rows. A tile is up to 48 rows; all its arithmetic has rows as the lanes of vectors: scores are kept as [key][row], so
 * that a key's or value's unit is one broadcast, from where it lies in the arena. Nothing is gathered, transposed (but
 * queries and results, once a tile) or padded in memory, and softmax needs no operation across lanes. In bfloat16 a unit
 * of values is the same number of two keys, which are copied side by side once for all rows of a tile.
 *
 * The order of all sums is attention.h's; the caller folds scale * log2(e) into ``factor``. Causality and window are masks
 * by position; keys that no row of a tile can see are not read. See tiles.py, which owns the types and checks of this call.
 */
#include "attention.h"

#define MAX_WIDTH 256
#define TILE_ROWS 48
#define VECS(N) ((N) * PARTS) /* of N times LANES rows */
#if defined(__AVX512F__)
#define COLUMNS(VECS) (VECS) /* vectors of rows whose sums are added to at once: what stays in registers */
#elif defined(__aarch64__)
#define COLUMNS(VECS) 2
#else
#define COLUMNS(VECS) 1
#endif

typedef struct {
    const void *query;         /* [kv_heads][group][rows][d]; strides in elements below */
    const void *keys, *values; /* [kv_heads][slots][d] of one layer */
    void *result;              /* [kv_heads][rows][group][d], of the dtype of the above */
    float *out;                /* the same of states */
    float *top, *total;        /* [kv_heads][rows][group] */
    const float *sinks;        /* [kv_heads][group], base 2; NULL: none */
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

/* Offsets of the KEYS keys from position ``begin`` on; those before the first and behind the last are that one's, and
 * hidden. Returns how many there are up to the last, in whole vectors of weights. */
static int find_keys_at(const tile_args *a, const tile *t, int64_t begin, int64_t *key) {
    const int64_t *blocks = a->table + a->table_start[t->item], last = MIN(begin + KEYS, t->high) - 1;
    const int number = (int)(last + 1 - begin + LANES - 1) / LANES * LANES;
    find_slots(blocks, a->block_size, a->kv_start[t->item], t->low, last + 1, begin, number, key);
    for (int j = 0; j < number; j++) key[j] = t->head * a->plane_stride + key[j] * a->width;
    return number;
}

static inline void set_pair(pairs *units, int64_t lane, pair to) {
#if defined(__AVX512BF16__)
    ((pair *)units)[lane] = to;
#else
    ((float *)&units[lane / WIDTH].low)[lane % WIDTH] = to.low;
    ((float *)&units[lane / WIDTH].high)[lane % WIDTH] = to.high;
#endif
}

/* Queries as [unit][lane], those of floats times the factor; lanes without a row repeat the last one. */
static void load_queries(const tile_args *a, const tile *t, int64_t lanes, int rounds, void *query, int32_t *position) {
    const int64_t *rows = a->rows + a->row_ptr[t->item];
    for (int64_t m = 0; m < lanes; m++) {
        const int64_t at = t->first + MIN(m, t->count - 1), row = rows[at / a->group];
        const int64_t from = t->head * a->query_kv_stride + (at % a->group) * a->query_group_stride + row * a->query_row_stride;
        position[m] = (int32_t)a->positions[row];
        if (rounds)
            for (int64_t d = 0; d < a->width / 2; d++)
                set_pair((pairs *)query + d * (lanes / WIDTH), m, pair_of((const bf16 *)a->query + from + 2 * d));
        else
            for (int64_t d = 0; d < a->width; d++)
                ((float *)query)[d * lanes + m] = ((const float *)a->query)[from + d] * a->factor;
    }
}

/* A tile's keys as units, and its values; ``copy`` has room for those that do not lie in memory as they are multiplied. */
static void keys_float(const tile_args *a, const int64_t *key, int number, float *copy, const float **units) {
    (void)copy;
    for (int j = 0; j < number; j++) units[j] = (const float *)a->keys + key[j];
}

static void keys_pair(const tile_args *a, const int64_t *key, int number, pair *copy, const pair **units) {
    for (int j = 0; j < number; j++) {
        const bf16 *row = (const bf16 *)a->keys + key[j];
#if defined(__AVX512BF16__)
        (void)copy;
        units[j] = (const pair *)row;
#else /* a pair of floats lies as the numbers do */
        units[j] = copy + j * a->width / 2;
        for (int64_t d = 0; d < a->width; d += WIDTH) *(vec *)((float *)units[j] + d) = widen(row + d);
#endif
    }
}

static int values_float(const tile_args *a, const int64_t *key, int number, float *copy, const float **value) {
    (void)copy;
    for (int j = 0; j < number; j++) value[j] = (const float *)a->values + key[j];
    return number;
}

static int values_pair(const tile_args *a, const int64_t *key, int number, pair *copy, const pair **value) {
    const bf16 *values = a->values;
    for (int j = 0; j < number; j += 2) {
        pair *both = copy + j / 2 * a->width;
        value[j / 2] = both;
#if defined(__AVX512BF16__)
        zip_rows(values + key[j], values + key[j + 1], (int)a->width / WIDTH, (uvec *)both);
#else
        for (int64_t d = 0; d < a->width; d += WIDTH) {
            const vec low = widen(values + key[j] + d), high = widen(values + key[j + 1] + d);
            for (int l = 0; l < WIDTH; l++) both[d + l] = (pair){low[l], high[l]};
        }
#endif
    }
    return number / 2;
}

/* Weights as units, from [key][row] of ``vectors`` vectors. */
static const vec *weights_float(const vec *weight, int number, int vectors, vec *copy) {
    (void)number, (void)vectors, (void)copy;
    return weight;
}

static const pairs *weights_pair(const vec *weight, int number, int vectors, pairs *copy) {
    for (int j = 0; j < number; j += 2)
        for (int v = 0; v < vectors; v++)
            copy[j / 2 * vectors + v] = pairs_of_floats(weight[j * vectors + v], weight[(j + 1) * vectors + v]);
    return copy;
}

/* What does not depend on the dtype, for N times LANES rows. */
#define DEFINE_ROWS(N)                                                                                                 \
    static void hide_##N(const tile_args *a, const tile *t, const ivec *position, int64_t begin, int number,           \
                            vec(*score)[VECS(N)]) {                                                                    \
        for (int j = 0; j < number; j++) {                                                                             \
            const int32_t at = (int32_t)(begin + j), outside = at < t->low || at >= t->high;                           \
            for (int v = 0; v < VECS(N); v++) {                                                                        \
                ivec hidden = (position[v] < at) | -outside;                                                           \
                if (a->window) hidden |= position[v] >= at + (int32_t)a->window;                                       \
                score[j][v] = where(hidden, splat(-INFINITY), score[j][v]);                                            \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    /* Scores become weights; ``top`` and ``total`` follow; ``shrink`` is what earlier results are worth. */           \
    static inline void weigh_##N(int number, int rounds, vec(*score)[VECS(N)], vec *top, vec *total, vec *shrink) {    \
        vec best[VECS(N)], base[VECS(N)];                                                                              \
        for (int v = 0; v < VECS(N); v++) best[v] = top[v];                                                            \
        for (int j = 0; j < number; j++)                                                                               \
            for (int v = 0; v < VECS(N); v++) best[v] = max_of(score[j][v], best[v]);                                  \
        for (int v = 0; v < VECS(N); v++)                                                                              \
            base[v] = where(best[v] == splat(-INFINITY), (vec){}, best[v]); /* no key yet: 0, not -inf + inf */        \
        for (int j = 0; j < number; j++)                                                                               \
            for (int v = 0; v < VECS(N); v++) {                                                                        \
                score[j][v] = exp2_vec(score[j][v] - base[v]);                                                         \
                if (rounds) score[j][v] = rounded(score[j][v]);                                                        \
            }                                                                                                          \
        for (int v = 0; v < VECS(N); v++) {                                                                            \
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
    }

DEFINE_ROWS(1)
DEFINE_ROWS(2)
DEFINE_ROWS(3)

typedef struct {
    float *out, *top, *total;
    const float *sink;
    int64_t at; /* of its result */
} row_state;

static row_state state_of(const tile_args *a, const tile *t, int64_t m) {
    const int64_t row = a->rows[a->row_ptr[t->item] + (t->first + m) / a->group], g = (t->first + m) % a->group;
    const int64_t at = t->head * a->state_stride + row * a->group + g;
    const int64_t out = t->head * a->out_stride + row * a->out_row_stride + g * a->width;
    return (row_state){
        .out = a->out + out, .top = a->top + at, .total = a->total + at,
        .sink = a->sinks ? a->sinks + t->head * a->group + g : 0, .at = out,
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

static void store_state(const tile_args *a, const tile *t, int64_t lanes, int rounds, const float *result,
                        const float *top, const float *total) {
    ALIGNED float row[MAX_WIDTH];
    for (int64_t m = 0; m < t->count; m++) {
        const row_state to = state_of(a, t, m);
        float *values = a->closes ? row : to.out;
        for (int64_t d = 0; d < a->width; d++) values[d] = result[d * lanes + m];
        *to.top = top[m], *to.total = total[m];
        void *closed = (char *)a->result + to.at * (rounds ? (int64_t)sizeof(bf16) : (int64_t)sizeof(float));
        if (a->closes) close_row(row, top[m], total[m], to.sink, a->width / WIDTH, rounds, closed);
    }
}

/* N times LANES rows; TOGETHER keys at a time for scores, AT_ONCE numbers of a value for results: what is being added up
 * stays in registers. ONE is a unit of EACH numbers, UNITS are one of each lane. */
#define DEFINE_TILE(TYPE, EACH, ONE, UNITS, N, TOGETHER, AT_ONCE)                                                      \
    /* Partial sums ``lane`` and the one that ``sum_of`` adds to it, added, of the columns from ``query`` on. */       \
    static inline void pair_##TYPE##_##N(int64_t units, const UNITS *query, const ONE **key, int lane,                 \
                                         vec (*sum)[COLUMNS(VECS(N))]) {                                               \
        enum { other = LANES / 2, columns = COLUMNS(VECS(N)) };                                                        \
        vec low[TOGETHER][columns], high[TOGETHER][columns];                                                           \
        for (int k = 0; k < TOGETHER; k++)                                                                             \
            for (int v = 0; v < columns; v++) low[k][v] = high[k][v] = (vec){};                                        \
        for (int64_t d = lane; d < units; d += other) {                                                                \
            for (int k = 0; k < TOGETHER; k++)                                                                         \
                for (int v = 0; v < columns; v++)                                                                      \
                    low[k][v] = multiply_##TYPE(query[d * VECS(N) + v], spread_##TYPE(key[k][d]), low[k][v]);          \
            if ((d += other) >= units) break;                                                                          \
            for (int k = 0; k < TOGETHER; k++)                                                                         \
                for (int v = 0; v < columns; v++)                                                                      \
                    high[k][v] = multiply_##TYPE(query[d * VECS(N) + v], spread_##TYPE(key[k][d]), high[k][v]);        \
        }                                                                                                              \
        for (int k = 0; k < TOGETHER; k++)                                                                             \
            for (int v = 0; v < columns; v++) sum[k][v] = low[k][v] + high[k][v];                                      \
    }                                                                                                                  \
    static void multiply_##TYPE##_##N(const tile_args *a, const UNITS(*query)[VECS(N)], const ONE **keys,              \
                                      int number, vec(*score)[VECS(N)]) {                                              \
        enum { columns = COLUMNS(VECS(N)) };                                                                           \
        const int64_t units = a->width / EACH;                                                                         \
        for (int j = 0; j < number; j += TOGETHER) {                                                                   \
            for (int c = 0; c < VECS(N); c += columns) {                                                               \
                vec sum[4][TOGETHER][columns], more[TOGETHER][columns];                                                \
                for (int i = 0; i < 4; i++) {                                                                          \
                    pair_##TYPE##_##N(units, query[0] + c, keys + j, i, sum[i]);                                       \
                    pair_##TYPE##_##N(units, query[0] + c, keys + j, i + 4, more);                                     \
                    for (int k = 0; k < TOGETHER; k++)                                                                 \
                        for (int v = 0; v < columns; v++) sum[i][k][v] += more[k][v];                                  \
                }                                                                                                      \
                for (int k = 0; k < TOGETHER; k++)                                                                     \
                    for (int v = 0; v < columns; v++) {                                                                \
                        vec whole = (sum[0][k][v] + sum[1][k][v]) + (sum[2][k][v] + sum[3][k][v]);                     \
                        if (rounds_##TYPE) whole *= splat(a->factor);                                                  \
                        score[j + k][c + v] = a->cap > 0 ? cap_scores(whole, a->cap) : whole;                          \
                    }                                                                                                  \
            }                                                                                                          \
        }                                                                                                              \
    }                                                                                                                  \
    static void add_##TYPE##_##N(int64_t width, const UNITS *weight, const ONE **value, int number,                    \
                                 const vec *shrink, vec(*result)[VECS(N)]) {                                           \
        enum { columns = COLUMNS(VECS(N)) };                                                                           \
        for (int64_t d = 0; d < width; d += AT_ONCE)                                                                   \
            for (int c = 0; c < VECS(N); c += columns) {                                                               \
                vec sum[AT_ONCE][columns];                                                                             \
                for (int k = 0; k < AT_ONCE; k++)                                                                      \
                    for (int v = 0; v < columns; v++) sum[k][v] = result[d + k][c + v] * shrink[c + v];                \
                for (int j = 0; j < number; j++)                                                                       \
                    for (int k = 0; k < AT_ONCE; k++)                                                                  \
                        for (int v = 0; v < columns; v++)                                                              \
                            sum[k][v] = multiply_##TYPE(weight[j * VECS(N) + c + v], spread_##TYPE(value[j][d + k]), sum[k][v]); \
                for (int k = 0; k < AT_ONCE; k++)                                                                      \
                    for (int v = 0; v < columns; v++) result[d + k][c + v] = sum[k][v];                                \
            }                                                                                                          \
    }                                                                                                                  \
    static void run_##TYPE##_##N(const tile_args *a, const tile *t) {                                                  \
        ALIGNED UNITS query[MAX_WIDTH][VECS(N)], weight[KEYS * VECS(N)];                                               \
        ALIGNED vec result[MAX_WIDTH][VECS(N)], score[KEYS][VECS(N)];                                                  \
        ALIGNED ONE copy[KEYS / 2 * MAX_WIDTH];                                                                        \
        vec top[VECS(N)], total[VECS(N)], shrink[VECS(N)];                                                             \
        ivec position[VECS(N)];                                                                                        \
        int64_t key[KEYS];                                                                                             \
        const ONE *unit[KEYS];                                                                                         \
        load_queries(a, t, N * LANES, rounds_##TYPE, query, (int32_t *)position);                                      \
        load_state(a, t, N * LANES, (float *)result, (float *)top, (float *)total);                                    \
        if (t->low < t->high)                                                                                          \
            for (int64_t begin = t->low - t->low % KEYS; begin < t->high; begin += KEYS) {                             \
                const int number = find_keys_at(a, t, begin, key);                                                     \
                keys_##TYPE(a, key, number, copy, unit);                                                               \
                multiply_##TYPE##_##N(a, query, unit, number, score);                                                  \
                if (begin < t->sees || begin + number > t->sees_high) hide_##N(a, t, position, begin, number, score);  \
                weigh_##N(number, rounds_##TYPE, score, top, total, shrink);                                           \
                const int units = values_##TYPE(a, key, number, copy, unit);                                           \
                add_##TYPE##_##N(a->width, weights_##TYPE(score[0], number, VECS(N), weight), unit, units, shrink, result); \
            }                                                                                                          \
        store_state(a, t, N * LANES, rounds_##TYPE, (const float *)result, (const float *)top, (const float *)total);  \
    }

#define DEFINE_TYPE(TYPE, EACH, ONE, UNITS)                                                                            \
    DEFINE_TILE(TYPE, EACH, ONE, UNITS, 1, 4, 8)                                                                       \
    DEFINE_TILE(TYPE, EACH, ONE, UNITS, 2, 4, 8)                                                                       \
    DEFINE_TILE(TYPE, EACH, ONE, UNITS, 3, 4, 8)

DEFINE_TYPE(float, 1, float, vec)
DEFINE_TYPE(pair, 2, pair, pairs)

typedef void (*tile_fn)(const tile_args *, const tile *);
static const tile_fn tile_runs[2][3] = {{run_float_1, run_float_2, run_float_3}, {run_pair_1, run_pair_2, run_pair_3}};

static void run_tile(const tile_args *a, int rounds, int64_t head, int64_t number) {
    int64_t low = 0, high = a->items; /* the last item with tile_ptr <= number */
    while (high - low > 1) {
        const int64_t middle = (low + high) / 2;
        if (a->tile_ptr[middle] <= number) low = middle;
        else high = middle;
    }
    tile t = {.item = low, .head = head, .first = (number - a->tile_ptr[low]) * TILE_ROWS};
    t.count = MIN(TILE_ROWS, (a->row_ptr[low + 1] - a->row_ptr[low]) * a->group - t.first);
    find_keys(a, &t);
    tile_runs[rounds][(t.count - 1) / LANES](a, &t);
}

/* All tiles of all items and key heads, by so many threads. */
static void run_tiles(const tile_args *a, int rounds, int64_t threads) {
    const int64_t tiles = a->tile_ptr[a->items];
#pragma omp parallel for num_threads(threads) schedule(dynamic)
    for (int64_t n = 0; n < tiles * a->kv_heads; n++) run_tile(a, rounds, n / tiles, n % tiles);
}

void quire_cpu_tiles_float32(const tile_args *a, int64_t threads) { run_tiles(a, rounds_float, threads); }
void quire_cpu_tiles_bfloat16(const tile_args *a, int64_t threads) { run_tiles(a, rounds_pair, threads); }
