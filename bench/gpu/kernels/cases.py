"""Steps to be timed: our kernels over a paged arena, and scaled_dot_product_attention over contiguous keys and values.

All inputs lie in one piece of device memory that every case views in its own shape, in as many copies ("layers") as it
takes to be several times larger than the L2 cache. Blocks are scattered over the arena, as they are in use.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_kernels.features import Features
from quire_kernels.gpu.attention import Scratch, attention
from quire_kernels.gpu.device_work import Capacity, DeviceWork
from quire_kernels.gpu.launch_table import Launch, architecture, launch_for
from quire_kernels.gpu.tiling import REGIMES, Shape, tile_items
from quire_kernels.group_rule import FREE, GroupRule, weights_for

BLOCK = 16
MOST_LAYERS = 32
L2_TIMES = 4


@dataclass(frozen=True, slots=True)
class Heads:
    """Query heads, KV heads, and their width."""

    heads: int
    kv_heads: int
    head_dim: int

    @property
    def group(self) -> int:
        """Query heads for each KV head."""
        return self.heads // self.kv_heads


class Bench:
    """The device, its memory for inputs, and its facts.

    Args:
        memory_bytes: for all inputs of a case.
    """

    def __init__(self, device: torch.device, memory_bytes: int) -> None:
        self.device = device
        self.memory = torch.empty(memory_bytes // 2, dtype=torch.bfloat16, device=device).normal_()
        self.arch = architecture(device)
        self.sm_count, self.l2_bytes = 4, 0
        if device.type == "cuda":
            properties = torch.cuda.get_device_properties(device)
            self.sm_count, self.l2_bytes = properties.multi_processor_count, properties.L2_cache_size
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float16  # the interpreter cuts bf16 off

    def rule(self, heads: Heads, kv: torch.dtype) -> GroupRule:
        """The group rule of a model of these heads."""
        launch = launch_for(self.arch, heads.head_dim, heads.group, kv, "group")
        places = launch.per_sm * self.sm_count
        sizes = (heads.kv_heads, heads.group, heads.head_dim, kv.itemsize, launch.block_m, places)
        return GroupRule(*sizes, weights_for(self.arch))

    def views(self, kv: torch.dtype, *shape: int) -> torch.Tensor | None:
        """[layers, *shape] of the memory; None if not even one layer fits."""
        size = int(np.prod(shape)) * kv.itemsize
        layers = min(self.memory.nbytes // size, MOST_LAYERS, max(1, -(-L2_TIMES * self.l2_bytes // size)))
        return self.memory.view(torch.uint8)[: layers * size].view(kv).view(layers, *shape) if layers else None

    def launches(self, heads: Heads, kv: torch.dtype) -> dict[str, Launch]:
        """What a model of these heads is launched with here, by regime."""
        return {name: launch_for(self.arch, heads.head_dim, heads.group, kv, name) for name in REGIMES}

    def ours(
        self,
        heads: Heads,
        plan: AttentionPlan,
        kv: torch.dtype,
        grouped: bool = False,
        launches: Mapping[str, Launch] | None = None,
    ) -> list[Callable[[], Any]] | None:
        """One call a layer of a step through our kernels; None if its arena does not fit."""
        arena = self.views(kv, 2, heads.kv_heads, int(plan.table.max()) + 1, BLOCK, heads.head_dim)
        if arena is None:
            return None
        launches = dict(launches or self.launches(heads, kv))
        shape = Shape(heads.kv_heads, heads.group, launches, self.sm_count)
        sizes = (heads.kv_heads, heads.group, heads.head_dim, 2, launches["group"].block_m, shape.places("group"))
        rule = GroupRule(*sizes, FREE)
        items = plan.items(None, rule) if grouped else plan.items()
        tiles = tile_items(items, plan.positions, BLOCK, shape)
        work = DeviceWork(Capacity.of(tiles, len(plan.positions), len(plan.table)), self.device)
        work.refill(tiles, plan.positions, plan.slots, plan.table)
        rows = len(plan.positions)
        query = torch.randn(heads.heads, rows, heads.head_dim, device=self.device).to(self.dtype)
        out = torch.empty(rows, heads.heads, heads.head_dim, dtype=self.dtype, device=self.device)
        scale = torch.ones(heads.kv_heads, device=self.device) if kv == torch.float8_e4m3fn else None
        features = Features(heads.head_dim**-0.5, k_scale=scale, v_scale=scale)
        scratch = Scratch(heads.heads, heads.head_dim, self.device)
        rest = (work, launches, features, scratch, out, self.sm_count)
        return [partial(attention, query, layer[0], layer[1], *rest) for layer in arena]

    def sdpa(self, heads: Heads, batch: int, queries: int, keys: int) -> list[Callable[[], Any]] | None:
        """The same with PyTorch, keys and values of each sequence contiguous; None if they do not fit."""
        memory = self.views(self.dtype, 2, batch, heads.kv_heads, keys, heads.head_dim)
        if memory is None:
            return None
        query = torch.randn(batch, heads.heads, queries, heads.head_dim, device=self.device).to(self.dtype)
        call = torch.nn.functional.scaled_dot_product_attention
        causal = queries > 1
        return [partial(call, query, k, v, is_causal=causal, enable_gqa=heads.group > 1) for k, v in memory]


def decode(lengths: Sequence[int]) -> AttentionPlan:
    """One token each of sequences of so many tokens, nothing shared."""
    blocks = np.array([-(-keys // BLOCK) for keys in lengths])
    ids = np.random.default_rng(0).permutation(int(blocks.sum())).astype(np.int32)
    tables = np.split(ids, np.cumsum(blocks)[:-1])
    return build_plan(tables, [keys - 1 for keys in lengths], [1] * len(lengths), BLOCK, group=False)


def shared(members: int, prefix: int, own: int, grouped: bool) -> AttentionPlan:
    """One token each of sequences that share ``prefix`` tokens and have ``own`` more."""
    common, rest = prefix // BLOCK, -(-own // BLOCK)
    ids = np.random.default_rng(0).permutation(common + members * rest).astype(np.int32)
    tables = [np.concatenate([ids[:common], own_ids]) for own_ids in ids[common:].reshape(members, rest)]
    return build_plan(tables, [prefix + own - 1] * members, [1] * members, BLOCK, group=grouped)


def prefill(tokens: int) -> AttentionPlan:
    """All tokens of one prompt."""
    ids = np.random.default_rng(0).permutation(-(-tokens // BLOCK)).astype(np.int32)
    return build_plan([ids], [0], [tokens], BLOCK)
