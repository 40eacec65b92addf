/* Writing a step's keys and values into their slots of the arena on a CPU, whatever numbers they are. See write.py, which
 * owns the types and checks of this call.
 */
#include <stdint.h>
#include <string.h>

#define SERIAL 262144 /* bytes below which waking threads costs more than it saves */

typedef struct {
    const char *key, *value; /* [kv_heads][rows][width]; strides in bytes below */
    char *keys, *values;     /* [kv_heads][slots][width] of one layer */
    const int64_t *slots;    /* [rows] */
    int64_t key_head_stride, key_row_stride, value_head_stride, value_row_stride;
    int64_t plane_stride;    /* between key heads of keys and of values */
    int64_t kv_heads, width, rows; /* width: in bytes */
} write_args;

/* Slots are different, so rows may be written at once: where memory of the arena is touched for the first time, the
 * system's zeroing of it takes longer than the copies. */
void quire_cpu_write(const write_args *a, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (a->rows * a->kv_heads * a->width >= SERIAL)
    for (int64_t i = 0; i < a->kv_heads * a->rows; i++) {
        const int64_t h = i / a->rows, r = i % a->rows;
        const int64_t to = h * a->plane_stride + a->slots[r] * a->width;
        memcpy(a->keys + to, a->key + h * a->key_head_stride + r * a->key_row_stride, (size_t)a->width);
        memcpy(a->values + to, a->value + h * a->value_head_stride + r * a->value_row_stride, (size_t)a->width);
    }
}
