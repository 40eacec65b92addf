"""paged_attention: attention of the step's query rows over blocks of the arena, tile by tile.

One kernel, launched in up to three regimes (decode, group, prefill; see ``tiling``) that differ in tile shape and
in whether causality can matter. Each program takes tiles of one KV head in turn: it gathers the tile's query rows
through the row list, packs the query heads that share the KV head into the same matrix, and walks the run of keys
through the block table, without a mask where every row sees every key and with one at the edges.

e4m3 keys and values are read as pairs, one 16-bit integer for two columns: tensor cores want 16-bit numbers, and what
is gathered by bytes takes a read of shared memory for each. Even and odd columns are then multiplied apart: scores are
the sum of two products, and the result's columns are interleaved at the end.

Invariants: a row's only partial result is final (sinks included) and goes to ``out``; every other goes, with its
base-2 log-sum-exp, to its place among the partials. Rows that no tile names are not touched. The grid does not
depend on the step: how many tiles there are is read on the device.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from quire_kernels.checks import FLOATS, FP8, check, check_device, check_kv, interpreting
from quire_kernels.features import Features

from .device_work import DeviceWork
from .launch_table import Launch, fallbacks
from .softmax_body import attend_range, before_sink, store_as
from .tiling import RECORD
from .write_kv import check_scales

PROGRAMS = 16  # programs per multiprocessor a launch has at most; each takes every n-th tile
FIELDS = tl.constexpr(len(RECORD))
LEAST_COLUMNS = 16  # that a matrix product takes


@triton.jit
def _kernel(
    query: tl.tensor,  # [heads, T, d]
    keys: tl.tensor,  # [kv_heads, blocks, slots, d]
    values: tl.tensor,
    out: tl.tensor,  # [T, heads, d]
    partial_out: tl.tensor,  # [places, heads, d]
    partial_lse: tl.tensor,  # [places, heads]
    tiles: tl.tensor,  # [capacity, FIELDS]
    tile_count: tl.tensor,  # [1]
    rows: tl.tensor,
    places: tl.tensor,
    positions: tl.tensor,
    table: tl.tensor,
    sinks: tl.tensor,
    slopes: tl.tensor,
    k_scale: tl.tensor,
    v_scale: tl.tensor,
    scale: tl.tensor,
    softcap: tl.tensor,
    window: tl.tensor,
    stride_qh: tl.tensor,
    stride_qr: tl.tensor,
    stride_head: tl.tensor,
    stride_block: tl.tensor,
    stride_slot: tl.tensor,
    stride_or: tl.tensor,
    stride_oh: tl.tensor,
    GROUP: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    HEAD_PAD: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    CAUSAL: tl.constexpr,
    PAIRS: tl.constexpr,
    UPCAST: tl.constexpr,
    INTERPRET: tl.constexpr,
) -> None:
    kv_head = tl.program_id(0)  # counts fastest: the longest run of every head begins before any shorter one
    heads = tl.num_programs(0) * GROUP
    WIDTH: tl.constexpr = HEAD_DIM // 2 if PAIRS else HEAD_DIM  # of a key, as it lies in memory
    COLUMNS: tl.constexpr = HEAD_PAD // 2 if PAIRS else HEAD_PAD
    column = tl.arange(0, HEAD_PAD)
    line = tl.arange(0, BLOCK_M)
    head = kv_head * GROUP + line % GROUP
    plane = kv_head.to(tl.int64) * stride_head
    for tile in range(tl.program_id(1), tl.load(tile_count), tl.num_programs(1)):
        # 1. The tile: its rows, its run of keys, and which of those need no mask.
        record = tiles + tile * FIELDS
        entry = tl.load(record) + line // GROUP
        live = line // GROUP < tl.load(record + 1)
        kv_start = tl.load(record + 3)
        kv_len = tl.load(record + 4)
        row = tl.load(rows + entry, mask=live, other=0).to(tl.int64)
        place = tl.load(places + entry, mask=live, other=0).to(tl.int64)
        position = tl.load(positions + row, mask=live, other=0)
        slope = None
        if slopes is not None:
            slope = tl.load(slopes + head)
        score_scale = scale
        if k_scale is not None:
            score_scale = scale * tl.load(k_scale + kv_head)
        mask = live[:, None] & (column < HEAD_DIM)[None, :]
        q = tl.load(
            query + head.to(tl.int64)[:, None] * stride_qh + row[:, None] * stride_qr + column, mask=mask, other=0.0
        )
        if UPCAST:
            q = q.to(tl.float32)
        q_odd = None
        acc_odd = tl.zeros([1], tl.float32)  # unused without pairs; Triton 3.6 cannot return None
        if PAIRS:  # from here on, q and acc are of even columns
            q, q_odd = tl.split(tl.reshape(q, [BLOCK_M, COLUMNS, 2]))
            acc_odd = tl.zeros([BLOCK_M, COLUMNS], tl.float32)

        # 2. Online softmax: masked up to the first key all rows see, free, masked again from the last such key.
        acc = tl.zeros([BLOCK_M, COLUMNS], tl.float32)
        top = tl.full([BLOCK_M], float("-inf"), tl.float32)
        total = tl.zeros([BLOCK_M], tl.float32)
        free = 0
        if window is not None:
            free = tl.cdiv(tl.load(record + 5), BLOCK_N) * BLOCK_N
            acc, acc_odd, top, total = attend_range(
                acc, acc_odd, top, total, q, q_odd, position, slope, 0, free, kv_start, kv_len,
                keys + plane, values + plane, table + tl.load(record + 2), stride_block, stride_slot,
                score_scale, softcap, window, WIDTH, COLUMNS, BLOCK_SIZE, BLOCK_N, CAUSAL, True,
            )  # fmt: skip
        edge = tl.maximum(free, tl.load(record + 6) // BLOCK_N * BLOCK_N)
        acc, acc_odd, top, total = attend_range(
            acc, acc_odd, top, total, q, q_odd, position, slope, free, edge, kv_start, kv_len,
            keys + plane, values + plane, table + tl.load(record + 2), stride_block, stride_slot,
            score_scale, softcap, window, WIDTH, COLUMNS, BLOCK_SIZE, BLOCK_N, CAUSAL, False,
        )  # fmt: skip
        acc, acc_odd, top, total = attend_range(
            acc, acc_odd, top, total, q, q_odd, position, slope, edge, kv_len, kv_start, kv_len,
            keys + plane, values + plane, table + tl.load(record + 2), stride_block, stride_slot,
            score_scale, softcap, window, WIDTH, COLUMNS, BLOCK_SIZE, BLOCK_N, CAUSAL, True,
        )  # fmt: skip

        # 3. Results: final for rows with place -1, partial for the others.
        only = place < 0
        lse = top + tl.log2(tl.where(total > 0.0, total, 1.0))
        share = 1.0 / tl.where(total > 0.0, total, 1.0)
        if sinks is not None:
            share = tl.where(only, share * before_sink(lse, tl.load(sinks + head)), share)
        if PAIRS:
            acc = tl.reshape(tl.join(acc, acc_odd), [BLOCK_M, HEAD_PAD])
        result = acc * share[:, None]
        if v_scale is not None:
            result *= tl.load(v_scale + kv_head)
        target = out + row[:, None] * stride_or + head[:, None] * stride_oh + column[None, :]
        tl.store(target, store_as(result, out.dtype.element_ty, INTERPRET), mask=mask & only[:, None])
        where = place * heads + head
        partial = live & (place >= 0)
        tl.store(partial_lse + where, lse, mask=partial)
        tl.store(partial_out + where[:, None] * HEAD_DIM + column, result, mask=mask & partial[:, None])


def paged_attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    work: DeviceWork,
    regime: str,
    launch: Launch,
    features: Features,
    out: torch.Tensor,
    partial_out: torch.Tensor,
    partial_lse: torch.Tensor,
    sm_count: int,
) -> None:
    """Run the tiles of one regime.

    Args:
        query: [heads, T, d]; T may be less than the capacity of ``work``, never less than its rows.
        keys, values: one layer of the arena, each [kv_heads, blocks, block_size, d]; dtype of ``query`` or e4m3.
        work: the step, tiled for ``launch.block_m`` and the window of ``features``.
        regime: ``decode``, ``group`` or ``prefill``.
        out: [T, heads, d], written for rows that have no other partial result.
        partial_out, partial_lse: [places, heads, d] and [places, heads] float32, contiguous.
        sm_count: multiprocessors; bounds the grid.

    Raises:
        ValueError: shapes, dtypes or strides do not fit.
    """
    arguments = attention_arguments(query, keys, values, work, regime, launch, features, out, partial_out, partial_lse)
    check_device(query=query, keys=keys, work=work.table, out=out, partial_out=partial_out, sinks=features.sinks)
    capacity, kv_heads = work.tiles[regime].shape[0], keys.shape[0]
    if capacity:
        _launch((kv_heads, min(capacity, -(-PROGRAMS * sm_count // kv_heads))), arguments, launch)


def _launch(grid: tuple[int, int], arguments: dict[str, Any], launch: Launch) -> None:
    """Launch, with a smaller pipeline if this chip's shared memory does not hold the wanted one."""
    for option in fallbacks(launch):
        arguments["BLOCK_N"] = option.block_n
        try:
            _kernel[grid](**arguments, **option.options)
        except triton.runtime.errors.OutOfResources:
            continue
        return
    raise RuntimeError(f"no fall-back of {launch} fits this device")


def attention_arguments(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    work: DeviceWork,
    regime: str,
    launch: Launch,
    features: Features,
    out: torch.Tensor,
    partial_out: torch.Tensor,
    partial_lse: torch.Tensor,
) -> dict[str, Any]:
    """Checked arguments of the kernel, by name."""
    check_kv(keys, values)
    kv_heads, _, block_size, width = keys.shape
    check("query", query, (None, None, width), *FLOATS)
    heads, rows, _ = query.shape
    if heads % kv_heads:
        raise ValueError(f"{heads} query heads are no multiple of {kv_heads} KV heads")
    if keys.dtype not in (FP8, query.dtype):
        raise ValueError(f"query has dtype {query.dtype}, the arena holds {keys.dtype}")
    if rows < work.used.rows:
        raise ValueError(f"query has {rows} rows, the step {work.used.rows}")
    if launch.block_m < heads // kv_heads:
        raise ValueError(f"block_m {launch.block_m} is below the {heads // kv_heads} query heads per KV head")
    check("out", out, (rows, heads, width), query.dtype)
    check("partial_out", partial_out, (None, heads, width), torch.float32)
    check("partial_lse", partial_lse, (partial_out.shape[0], heads), torch.float32)
    if not (partial_out.is_contiguous() and partial_lse.is_contiguous()):
        raise ValueError("partial_out and partial_lse must be contiguous")
    if partial_out.shape[0] < work.partials:
        raise ValueError(f"partial_out has {partial_out.shape[0]} places, the step needs {work.partials}")
    if features.window is not None and work.window not in (None, features.window):
        raise ValueError(f"the tiles are cut for a window of {work.window}, not {features.window}")
    check_scales(keys, features.k_scale, features.v_scale)
    for name, tensor, dtypes in (("sinks", features.sinks, FLOATS), ("slopes", features.slopes, (torch.float32,))):
        if tensor is not None:
            check(name, tensor, (heads,), *dtypes)
    if pairs := keys.dtype == FP8:
        keys, values = keys.view(torch.int16), values.view(torch.int16)
    return {
        "query": query,
        "keys": keys,
        "values": values,
        "out": out,
        "partial_out": partial_out,
        "partial_lse": partial_lse,
        "tiles": work.tiles[regime],
        "tile_count": work.count(regime),
        "rows": work.rows,
        "places": work.places,
        "positions": work.positions,
        "table": work.table,
        "sinks": features.sinks,
        "slopes": features.slopes,
        "k_scale": features.k_scale,
        "v_scale": features.v_scale,
        "scale": float(features.scale),
        "softcap": None if features.softcap is None else float(features.softcap),
        "window": features.window,
        "stride_qh": query.stride(0),
        "stride_qr": query.stride(1),
        "stride_head": keys.stride(0),
        "stride_block": keys.stride(1),
        "stride_slot": keys.stride(2),
        "stride_or": out.stride(0),
        "stride_oh": out.stride(1),
        "GROUP": heads // kv_heads,
        "HEAD_DIM": width,
        "HEAD_PAD": max(triton.next_power_of_2(width), LEAST_COLUMNS * (1 + pairs)),
        "BLOCK_SIZE": block_size,
        "BLOCK_M": launch.block_m,
        "BLOCK_N": launch.block_n,
        "CAUSAL": regime != "group",
        "PAIRS": pairs,
        "UPCAST": interpreting() and query.dtype == torch.bfloat16,
        "INTERPRET": interpreting(),
    }
