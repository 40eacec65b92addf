/* Writing a step's keys and values into their slots of the arena, float32, on a CPU. See cpu_write.py, which owns the
 * types and checks of this call.
 */
#include <stdint.h>
#include <string.h>

typedef struct {
    const float *key, *value; /* [kv_heads][rows][width]; strides in elements below */
    float *keys, *values;     /* [kv_heads][slots][width] of one layer */
    const int64_t *slots;     /* [rows] */
    int64_t key_head_stride, key_row_stride, value_head_stride, value_row_stride;
    int64_t plane_stride; /* between key heads of keys and of values */
    int64_t kv_heads, width, rows, capacity;
} write_args;

/* 0; or 1, and nothing is written, if a slot lies outside the arena. */
int32_t quire_cpu_write(const write_args *a) {
    for (int64_t r = 0; r < a->rows; r++)
        if (a->slots[r] < 0 || a->slots[r] >= a->capacity) return 1;
    const size_t bytes = (size_t)a->width * sizeof(float);
    for (int64_t h = 0; h < a->kv_heads; h++)
        for (int64_t r = 0; r < a->rows; r++) {
            const int64_t to = h * a->plane_stride + a->slots[r] * a->width;
            memcpy(a->keys + to, a->key + h * a->key_head_stride + r * a->key_row_stride, bytes);
            memcpy(a->values + to, a->value + h * a->value_head_stride + r * a->value_row_stride, bytes);
        }
    return 0;
}
