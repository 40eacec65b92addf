"""The online-softmax loop that every attention kernel is made of.

Owns the arithmetic of attention over paged keys and values: scores, soft-cap, ALiBi, visibility, running maximum
and sum, base 2 throughout. ``attend_range`` is called once for keys that every row sees, without any mask, and
again with ``MASKED`` for the keys at the edges (fill, causality, window). With ``query_odd``, keys and values are pairs
of e4m3 numbers as 16-bit integers, and even and odd columns are multiplied apart.

Invariants: masked loads read neither K nor V beyond the run of the tile, because unwritten slots may hold NaN and
NaN times zero is NaN; a row that has seen no key has maximum -inf and sum 0, and never becomes NaN; sums and
products accumulate in float32; block offsets are 64 bits wide.
"""

from __future__ import annotations

import triton
import triton.language as tl

LOG2_E = tl.constexpr(1.4426950408889634)


@triton.jit
def attend_range(
    acc: tl.tensor,  # [BLOCK_M, COLUMNS] weighted sum of values, relative to exp2(-top)
    acc_odd: tl.tensor,  # the same of odd columns, if there is query_odd
    top: tl.tensor,  # [BLOCK_M] largest score so far, base 2
    total: tl.tensor,  # [BLOCK_M] sum of weights, relative to exp2(-top)
    query: tl.tensor,  # [BLOCK_M, COLUMNS]
    query_odd: tl.tensor,  # the same of odd columns, or None
    position: tl.tensor,  # [BLOCK_M] where each query row stands in its sequence
    slope: tl.tensor,  # [BLOCK_M] ALiBi slopes, or None
    begin: tl.tensor,  # first key, counted from the start of the tile's run
    end: tl.tensor,  # last key, exclusive; rounded up to whole steps of BLOCK_N
    kv_start: tl.tensor,  # position of key 0 of the run
    kv_len: tl.tensor,  # keys of the run
    keys: tl.tensor,  # plane of this KV head
    values: tl.tensor,
    table: tl.tensor,  # block ids of the run; key 0 lies in the first one
    stride_block: tl.tensor,
    stride_slot: tl.tensor,
    score_scale: tl.tensor,
    softcap: tl.tensor,  # or None
    window: tl.tensor,  # or None
    WIDTH: tl.constexpr,  # of a key, as it lies in memory: two e4m3 numbers count as one
    COLUMNS: tl.constexpr,  # the next power of two
    BLOCK_SIZE: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Fold keys ``begin`` to ``end`` into (acc, acc_odd, top, total)."""
    column = tl.arange(0, COLUMNS)
    for first in range(begin, end, BLOCK_N):
        # 1. Where the keys lie.
        key = first + tl.arange(0, BLOCK_N)
        inside = key < kv_len
        token = kv_start % BLOCK_SIZE + key
        if MASKED:
            block = tl.load(table + token // BLOCK_SIZE, mask=inside, other=0)
        else:
            block = tl.load(table + token // BLOCK_SIZE)
        offset = block.to(tl.int64) * stride_block + (token % BLOCK_SIZE) * stride_slot

        # 2. Scores in units of log2.
        EXACT: tl.constexpr = query.dtype == tl.float32
        k = _load(keys + offset[None, :] + column[:, None], inside[None, :], column[:, None], WIDTH, COLUMNS, MASKED)
        if query_odd is None:
            score = tl.dot(query, k.to(query.dtype), input_precision="ieee")
        else:
            score = tl.dot(query, _widen(k, query.dtype), input_precision="ieee")
            score = tl.dot(query_odd, _widen(k >> 8, query.dtype), score, input_precision="ieee")
        if softcap is not None:
            score = softcap * LOG2_E * _tanh(score * (score_scale / softcap), EXACT)
        else:
            score = score * (score_scale * LOG2_E)
        if slope is not None:
            distance = (kv_start + key)[None, :] - position[:, None]
            score += slope[:, None] * LOG2_E * distance.to(tl.float32)
        if MASKED:
            visible = inside[None, :]
            if CAUSAL:
                visible = visible & ((kv_start + key)[None, :] <= position[:, None])
            if window is not None:
                visible = visible & ((kv_start + key)[None, :] > position[:, None] - window)
            score = tl.where(visible, score, float("-inf"))

        # 3. Rescale what was summed so far, then add.
        new_top = tl.maximum(top, tl.max(score, 1))
        base = new_top
        if MASKED:
            base = tl.where(new_top == float("-inf"), 0.0, new_top)
        weight = power_of_two(score - base[:, None], EXACT)
        shrink = power_of_two(top - base, EXACT)
        total = total * shrink + tl.sum(weight, 1)
        top = new_top
        v = _load(values + offset[:, None] + column[None, :], inside[:, None], column[None, :], WIDTH, COLUMNS, MASKED)
        weight = weight.to(query.dtype)
        if query_odd is None:
            acc = tl.dot(weight, v.to(query.dtype), acc * shrink[:, None], input_precision="ieee")
        else:
            acc = tl.dot(weight, _widen(v, query.dtype), acc * shrink[:, None], input_precision="ieee")
            odd = _widen(v >> 8, query.dtype)
            acc_odd = tl.dot(weight, odd, acc_odd * shrink[:, None], input_precision="ieee")
    return acc, acc_odd, top, total


@triton.jit
def _widen(pair: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """The e4m3 number in the low byte of each of some 16-bit integers."""
    return pair.to(tl.int8).to(tl.float8e4nv, bitcast=True).to(DTYPE)


@triton.jit
def _load(
    pointer: tl.tensor,
    inside: tl.tensor,
    column: tl.tensor,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    MASKED: tl.constexpr,
) -> tl.tensor:
    """Load a tile of K or V, with no more of a mask than it needs: masks cost registers and vector width."""
    if MASKED:
        if WIDTH != COLUMNS:
            return tl.load(pointer, mask=inside & (column < WIDTH), other=0)
        else:
            return tl.load(pointer, mask=inside, other=0)
    elif WIDTH != COLUMNS:
        return tl.load(pointer, mask=column < WIDTH, other=0)
    else:
        return tl.load(pointer)


@triton.jit
def power_of_two(x: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """2 ** x, for x up to 127; below -126 it is 0.

    A GPU's own instruction is off by up to two units in the last place of float32. 16-bit results do not show that,
    float32 ones do: where ``EXACT``, the power of the nearest whole number is made of bits, and the rest is a series.
    """
    if EXACT:
        bounded = tl.where(x < -127.0, -127.0, x)  # -inf less its whole part would be NaN; NaN stays
        whole = tl.floor(bounded + 0.5)
        part = bounded - whole
        series = 0.00015403530393381608 + part * 1.525273380405984e-05
        series = 0.009618129107628477 + part * (0.0013333558146428443 + part * series)
        series = 0.2402265069591007 + part * (0.05550410866482158 + part * series)
        series = 1.0 + part * (0.6931471805599453 + part * series)
        return series * ((whole.to(tl.int32) + 127) << 23).to(tl.float32, bitcast=True)
    else:
        return tl.exp2(x)


@triton.jit
def _tanh(x: tl.tensor, EXACT: tl.constexpr) -> tl.tensor:
    """Hyperbolic tangent that is finite for any input and exact to float32 rounding near 0.

    1 - 2 / (e**2x + 1) is 1 from 15 on, and cancels near 0: there the Taylor series takes over.
    """
    square = tl.minimum(x * x, 1.0)
    near = x * (1 + square * (-1 / 3 + square * (2 / 15 + square * (-17 / 315 + square * (62 / 2835)))))
    far = 1 - 2 / (power_of_two(tl.minimum(x, 15.0) * (2 * LOG2_E), EXACT) + 1)
    return tl.where(square < 0.04, near, far)


@triton.jit
def before_sink(lse: tl.tensor, sink: tl.tensor) -> tl.tensor:
    """Share of a softmax that its keys keep when a sink (natural logit) joins: 2**lse / (2**lse + e**sink)."""
    distance = sink.to(tl.float32) * LOG2_E - lse
    return 1.0 / (1.0 + power_of_two(tl.minimum(distance, 126.0), True))


@triton.jit
def store_as(x: tl.tensor, DTYPE: tl.constexpr, INTERPRET: tl.constexpr) -> tl.tensor:
    """float32 -> ``DTYPE``, rounded to nearest even.

    The interpreter cuts bf16 off and loses the carry of e4m3, so there the value is rounded to as many bits first.
    """
    if INTERPRET:
        if DTYPE == tl.bfloat16:  # noqa: SIM300 (the other way round is no comparison of types)
            x = _round_bits(x, 16)
        elif DTYPE == tl.float8e4nv:  # noqa: SIM300
            tiny = tl.abs(x) < 0.015625  # 2 ** -6: below it, steps are 2 ** -9 wide
            x = tl.where(tiny, (x + 24576.0) - 24576.0, _round_bits(x, 20))
    return x.to(DTYPE)


@triton.jit
def _round_bits(x: tl.tensor, DROP: tl.constexpr) -> tl.tensor:
    """Clear the lowest ``DROP`` bits of float32 mantissas, rounding to nearest even."""
    bits = x.to(tl.int32, bitcast=True)
    half = (1 << (DROP - 1)) - 1
    bits = bits + half + ((bits >> DROP) & 1)
    bits = (bits >> DROP) << DROP
    return bits.to(tl.float32, bitcast=True)
