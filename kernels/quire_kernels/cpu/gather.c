/* What experts gave, weighed and added up by token, on a CPU. See experts.py, which owns the types and checks of this
 * call. */
#include "bfloat16.h"

#define SERIAL 8192 /* vectors below which waking threads costs more than they save */

typedef struct {
    const void *given;    /* [any][width] */
    const float *weight;  /* [tokens][each] */
    const int64_t *place; /* [tokens][each] rows of ``given`` */
    void *result;         /* [tokens][width] */
    int64_t tokens, each, width, bfloat;
} gather_args;

/* In the order of a token's experts; of bfloat16 each product is rounded to it, and their sum once. */
static void gather_token(const gather_args *a, int64_t token) {
    const float *weight = a->weight + token * a->each;
    const int64_t *place = a->place + token * a->each;
    for (int64_t c = 0; c < a->width; c += WIDTH) {
        vec sum = {};
        for (int64_t e = 0; e < a->each; e++) {
            const int64_t at = place[e] * a->width + c;
            if (a->bfloat)
                sum += rounded(widen((const bf16 *)a->given + at) * splat(weight[e]));
            else
                sum += *(const vec *)((const float *)a->given + at) * splat(weight[e]);
        }
        if (a->bfloat)
            *(bvec *)((bf16 *)a->result + token * a->width + c) = narrow(sum);
        else
            *(vec *)((float *)a->result + token * a->width + c) = sum;
    }
}

/* All tokens, by so many threads. */
void quire_cpu_gather(const gather_args *a, int64_t threads) {
#pragma omp parallel for num_threads(threads) if (a->tokens * a->each * a->width >= SERIAL * LANES)
    for (int64_t token = 0; token < a->tokens; token++) gather_token(a, token);
}
