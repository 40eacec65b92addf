"""Attention over a paged arena with Triton kernels, on a GPU or, to prove the kernels, in Triton's interpreter.

Owns the passage from a step's plan to launches: tiles are cut and copied to the device once a step (for each
window), every layer then launches the same few kernels.

Two ways to hold a step on the device. By default each plan gets buffers of its own size. For captured CUDA graphs
the owner of the graphs makes a ``StaticStep`` of some capacity, loads plan after plan into it, and captures or
replays with it: addresses and grids stay, counts are read on the device. Rows beyond the plan's have slot -1 and
belong to no tile; their output is 0.

Invariants: kernels read nothing of the plan but what was copied for it; scratch memory for partial results is the
backend's own, so that one backend serves one stream.
"""

from __future__ import annotations

import numpy as np
import torch

from quire_engine.checkpoint.kv_scales import KvScales
from quire_engine.transfer import to_device
from quire_kernels.checks import FP8, interpreting
from quire_kernels.features import Features
from quire_kernels.gpu.attention import Scratch, attention
from quire_kernels.gpu.copy_blocks import copy_blocks
from quire_kernels.gpu.device_work import Capacity, DeviceWork
from quire_kernels.gpu.launch_table import Launch, architecture, launch_for
from quire_kernels.gpu.tiling import RECORD, REGIMES, Shape, Tiles, tile_items
from quire_kernels.gpu.write_kv import write_kv
from quire_kernels.group_rule import GroupRule, weights_for

from .backend import Copies
from .groups import MAX_LEVELS
from .plan import AttentionPlan

SLOTS = "triton slots"  # key of the plan's slots on the device
INTERPRETER_SMS = 4


class StaticStep:
    """Device buffers of fixed addresses for decode steps up to ``capacity``; see ``TritonAttention.load``.

    Args:
        windows: the windows that the model's layers have, None for layers without.

    Attributes:
        works: by window, the step's tiles.
        scratch: memory of partial results that launches captured with this step use; kept for them even if the
            backend has larger memory by then.
    """

    def __init__(self, windows: tuple[int | None, ...], capacity: Capacity, scratch: Scratch) -> None:
        self.works = {window: DeviceWork(capacity, scratch.out.device) for window in windows}
        self.scratch = (scratch.out, scratch.lse)


class TritonAttention:
    """Attention backend on device memory.

    Args:
        arena: (layer, 2, kv_head, block, slot, d); any strides with d innermost.
        heads: query heads of the model.
        fixed_run: cut keys into runs of this length whatever else is in the batch, so that results do not depend on
            it; None lets the split rule decide.
        scales: of an e4m3 arena; all 1 if not given.

    Raises:
        ValueError: host memory without the interpreter, or a shape that the kernels do not know.
    """

    def __init__(
        self, arena: torch.Tensor, heads: int, fixed_run: int | None = None, scales: KvScales | None = None
    ) -> None:
        if arena.dim() != 6:
            raise ValueError(f"not an arena: {tuple(arena.shape)}")
        kv_heads, width = arena.shape[2], arena.shape[5]
        if heads % kv_heads:
            raise ValueError(f"{heads} query heads are no multiple of {kv_heads} KV heads")
        if arena.device.type == "cpu" and not interpreting():
            raise ValueError("the arena lies in host memory: set TRITON_INTERPRET=1, or use the CPU backend")
        self.arena = arena
        self.block_size = arena.shape[4]
        self.sm_count = _sm_count(arena.device)
        arch, group = architecture(arena.device), heads // kv_heads
        self.launches: dict[str, Launch] = {
            regime: launch_for(arch, width, group, arena.dtype, regime) for regime in REGIMES
        }
        self._shape = Shape(kv_heads, group, self.launches, self.sm_count, fixed_run)
        size, weights = arena.element_size(), weights_for(arch)
        block_m, places = self.launches["group"].block_m, self._shape.places("group")
        self._rule = GroupRule(kv_heads, group, width, size, block_m, places, weights)
        self._scratch = Scratch(heads, width, arena.device)
        # Of keys and of values, each [layers, kv_heads]; None for an arena that holds what the model computes.
        self._scales: tuple[torch.Tensor, torch.Tensor] | None = None
        if arena.dtype == FP8:
            chosen = scales or KvScales.ones(arena.shape[0], kv_heads)
            keys, values = (to_device(torch.from_numpy(x), arena.device) for x in (chosen.keys, chosen.values))
            self._scales = keys, values

    @torch.no_grad()
    def write_kv(self, layer: int, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan) -> None:
        """Store the step's keys and values; see :class:`AttentionBackend`."""
        slots = plan.prepared.get(SLOTS)
        if slots is None:
            slots = plan.prepared[SLOTS] = to_device(torch.from_numpy(plan.slots), self.arena.device)
        assert isinstance(slots, torch.Tensor)
        write_kv(key, value, self.arena[layer, 0], self.arena[layer, 1], slots, *self._layer_scales(layer))

    @torch.no_grad()
    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        plan: AttentionPlan,
        *,
        scale: float,
        window: int | None = None,
        softcap: float | None = None,
        sinks: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Attention of all query tokens of the step; see :class:`AttentionBackend`."""
        work = self._work(plan, window)
        heads, rows, width = query.shape
        out = query.new_zeros(rows, heads, width)
        k_scale, v_scale = self._layer_scales(layer)
        features = Features(scale, window, softcap, sinks, k_scale=k_scale, v_scale=v_scale)
        keys, values = self.arena[layer, 0], self.arena[layer, 1]
        return attention(query, keys, values, work, self.launches, features, self._scratch, out, self.sm_count)

    @torch.no_grad()
    def copy_blocks(self, copies: Copies) -> None:
        """Copy and zero blocks; see :class:`AttentionBackend`."""
        for wave in _waves(copies):
            rows = to_device(torch.tensor(wave, dtype=torch.int32), self.arena.device)
            copy_blocks(self.arena, rows, torch.full((1,), len(wave), dtype=torch.int32, device=self.arena.device))

    def _layer_scales(self, layer: int) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Scales of keys and values, [kv_heads] each, or None."""
        return (None, None) if self._scales is None else (self._scales[0][layer], self._scales[1][layer])

    def static_step(self, windows: tuple[int | None, ...], rows: int, table: int) -> StaticStep:
        """Buffers for decode steps of up to ``rows`` sequences with ``table`` block ids together.

        Capture with them before anything else runs: the scratch memory is the backend's present one.
        """
        capacity = Capacity.for_decode(rows, MAX_LEVELS, table, self._shape)
        self._scratch.reserve(capacity.merge_places)
        return StaticStep(windows, capacity, self._scratch)

    def load(self, plan: AttentionPlan, step: StaticStep) -> None:
        """Copy ``plan`` into ``step``: layers that are given this plan use those buffers.

        Raises:
            ValueError: the plan exceeds the capacity of ``step``.
        """
        for window, work in step.works.items():
            work.refill(self._tiles(plan, window), plan.positions, plan.slots, plan.table)
        _prepare(plan, step)

    def load_nothing(self, plan: AttentionPlan, step: StaticStep) -> None:
        """Have layers that are given ``plan`` use the buffers of ``step``, which say that nothing is stored or read."""
        none = np.zeros(0, np.int64)
        for window, work in step.works.items():
            work.refill(_no_tiles(window), none, none, none)
        _prepare(plan, step)

    def _work(self, plan: AttentionPlan, window: int | None) -> DeviceWork:
        """The step's tiles for this window, copied by the first layer that needs them."""
        assert plan.block_size == self.block_size, "plan and arena differ in block size"
        work = plan.prepared.get(_key(window))
        if work is None:
            tiles = self._tiles(plan, window)
            work = DeviceWork(Capacity.of(tiles, len(plan.positions), len(plan.table)), self.arena.device)
            work.refill(tiles, plan.positions, plan.slots, plan.table)
            plan.prepared[_key(window)] = work
        assert isinstance(work, DeviceWork)
        return work

    def _tiles(self, plan: AttentionPlan, window: int | None) -> Tiles:
        return tile_items(plan.items(window, self._rule), plan.positions, plan.block_size, self._shape)


def _prepare(plan: AttentionPlan, step: StaticStep) -> None:
    for window, work in step.works.items():
        plan.prepared[_key(window)] = work
        plan.prepared[SLOTS] = work.slots


def _no_tiles(window: int | None) -> Tiles:
    none = np.zeros(0, np.int32)
    records = {regime: np.zeros((0, len(RECORD)), np.int32) for regime in REGIMES}
    return Tiles(window, records, none, none, none, np.zeros(1, np.int32), none, 0)


def _key(window: int | None) -> tuple[str, int | None]:
    return ("triton", window)


def _sm_count(device: torch.device) -> int:
    """Multiprocessors; the interpreter runs one program after another, whatever is said here."""
    if device.type != "cuda":
        return INTERPRETER_SMS
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def _waves(copies: Copies) -> list[Copies]:
    """``copies`` in order, cut where a row depends on an earlier one: rows of one launch run in any order."""
    waves: list[Copies] = []
    touched: set[int] = set()
    written: set[int] = set()
    for row in copies:
        if not waves or row[1] in touched or row[0] in written:
            waves.append([])
            touched, written = set(), set()
        waves[-1].append(row)
        touched |= {row[0], row[1]}
        written.add(row[1])
    return waves
