"""Attention over a paged arena on a CPU, in PyTorch.

Owns the layers' reads and writes of the arena for one step: ``write_kv`` stores the step's keys and values, ``attend``
computes attention.

Small compiled kernels of ours read blocks in place where a C compiler was found, one for single query rows (decodes),
one for many (prefill chunks, groups): no library reads a paged arena on a CPU. A row's result is the same, bit by bit,
in every batch (``chain``). One more writes the step's keys and values.

Where there is no compiler, and for what the kernels do not know (other dtypes and head sizes), PyTorch serves the
work items of the plan (``calls``): every call gives a partial result with its log-sum-exp, and the partial results of
a row are merged with weights 2 ** (lse - total). Query heads that share a key head are never repeated: without
causality they are further rows of the same matrix, with causality K and V are expanded with stride 0.

Invariants: slots behind a sequence's fill mark are never read; logarithms are base 2; an empty result has
log-sum-exp -inf and weight 0, never NaN; sinks join the denominator once, after merging.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import structlog
import torch

from quire_engine.attention.backend import Copies
from quire_engine.attention.plan import AttentionPlan
from quire_engine.checkpoint.kv_scales import KvScales
from quire_kernels.cpu.call import WIDTHS, RowStates
from quire_kernels.cpu.decode import cpu_decode, supports
from quire_kernels.cpu.host_library import NoHostLibrary, load
from quire_kernels.cpu.tiles import cpu_tiles
from quire_kernels.cpu.write import cpu_write
from quire_kv import Layout

from .calls import Call, Calls, prepare
from .chain import Chain, chain
from .pytorch import Partials, merge, partial_attention
from .slots import Slots

_T = TypeVar("_T")

log = structlog.get_logger()


class CpuAttention:
    """Attention backend on host memory.

    Args:
        arena: (layer, 2, kv_head, block, slot, d), C-contiguous; see ``quire_proto.wire.layout.Layout.shape``.
        scales: of an e4m3 arena; all 1 if not given.
    """

    def __init__(self, arena: torch.Tensor, scales: KvScales | None = None) -> None:
        assert arena.dim() == 6, f"not an arena: {tuple(arena.shape)}"
        assert arena.is_contiguous(), "consecutive blocks must be one matrix"
        self.arena = arena
        self.block_size = arena.shape[4]
        self._compiled = supports(arena) and _can_compile()
        self._slots = Slots(arena, scales)

    @torch.no_grad()
    def write_kv(self, layer: int, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan) -> None:
        """Store the step's keys and values; see :class:`AttentionBackend`."""
        slots, keys, values = torch.from_numpy(plan.slots), *self.arena[layer]
        if self._compiled:
            cpu_write(key, value, keys, values, slots, torch.get_num_threads())
        else:
            self._slots.write(layer, slots, (key, value))

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
        query = query.view(self.arena.shape[2], -1, *query.shape[1:])
        if self._compiled:
            return self._attend_compiled(layer, query, plan, scale, window, softcap, sinks)
        kv_heads, group, _, width = query.shape
        calls = self._calls(plan, window)
        part = Partials.empty(kv_heads, calls.partials, group, width)
        for call in calls.calls:
            self._run(call, layer, query, part, scale, softcap)
        return merge(part, calls.merge_index, sinks).to(query.dtype)

    def copy_blocks(self, copies: Copies) -> None:
        """Copy and zero blocks; see :class:`AttentionBackend`."""
        for src, dst, slots in copies:
            self.arena[:, :, :, dst, :slots] = self.arena[:, :, :, src, :slots] if src >= 0 else 0

    def _attend_compiled(
        self,
        layer: int,
        query: torch.Tensor,
        plan: AttentionPlan,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Of ``query`` [kv_heads, group, T, d]."""
        calls, states, threads = self._chain(plan, window), RowStates.of(query), torch.get_num_threads()
        keys, values = self.arena[layer]
        for tiles in [*calls.shared, calls.chunks]:
            if tiles is not None:
                cpu_tiles(query, keys, values, tiles, states, scale, sinks, softcap, threads)
        if calls.singles is not None:
            cpu_decode(query, keys, values, calls.singles, states, scale, sinks, softcap, threads)
        return states.out.transpose(0, 1).flatten(1, 2)

    def _run(
        self, call: Call, layer: int, query: torch.Tensor, part: Partials, scale: float, softcap: float | None
    ) -> None:
        """Compute one call's partial results into their places; ``query`` is [kv_heads, group, T, d]."""
        kv_heads, group, _, width = query.shape
        rows = query[:, :, call.row_slice] if call.rows is None else query.index_select(2, call.rows)
        keys, values = self._slots.read(layer, call.slots, call.view, query.dtype)
        if call.causal or (call.hidden is not None and call.items == 1):
            # Rows see different keys: heads stay an axis of their own, K and V repeat over it with stride 0.
            keys, values = (x[:, None].expand(-1, group, -1, -1) for x in (keys, values))
            out, lse = partial_attention(rows, keys, values, scale, softcap, call.hidden, call.causal)
            out, lse = out.transpose(1, 2), lse.transpose(1, 2)
        else:
            # All rows of an item see the same keys: the query heads of a key head are further rows.
            folded = rows.transpose(1, 2).reshape(kv_heads, call.items, -1, width)
            keys, values = (x.view(kv_heads, call.items, -1, width) for x in (keys, values))
            out, lse = partial_attention(folded, keys, values, scale, softcap, call.hidden, False)
        place = slice(call.place, call.place + call.partials)
        part.out[:, place] = out.reshape(kv_heads, -1, group, width)
        part.lse[:, place] = lse.reshape(kv_heads, -1, group)

    def _chain(self, plan: AttentionPlan, window: int | None) -> Chain:
        """The step's chain for this window, derived by the first layer that needs it."""
        return self._prepared(plan, window, Chain, chain)

    def _calls(self, plan: AttentionPlan, window: int | None) -> Calls:
        """PyTorch's calls of the step for this window, likewise."""
        return self._prepared(plan, window, Calls, prepare)

    def _prepared(
        self, plan: AttentionPlan, window: int | None, kind: type[_T], make: Callable[[AttentionPlan, int | None], _T]
    ) -> _T:
        assert plan.block_size == self.block_size, "plan and arena differ in block size"
        key = (kind, plan.seen(window))
        found = plan.prepared.get(key)
        if found is None:
            found = plan.prepared[key] = make(plan, plan.seen(window))
        assert isinstance(found, kind)
        return found


def kernels_in_words(layout: Layout) -> str:
    """What computes attention over such a pool on this machine's CPU, and why that is not the compiled kernels."""
    if layout.dtype != "float32" or layout.head_dim not in WIDTHS:
        return f"PyTorch: the compiled kernels do not know {layout.dtype} with heads of {layout.head_dim}"
    try:
        load()
    except NoHostLibrary as exc:
        return f"PyTorch: the kernels in C are not compiled: {exc}"
    return "C, compiled for this processor"


def _can_compile() -> bool:
    """Whether the compiled kernels are there; if not the log says why, once a backend."""
    try:
        load()
    except NoHostLibrary as exc:
        log.info("attention_without_compiled_kernels", reason=str(exc))
        return False
    return True
