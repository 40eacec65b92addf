"""Attention over a paged arena on a CPU, in PyTorch.

Owns the layers' reads and writes of the arena for one step: ``write_kv`` stores the step's keys and values, ``attend``
computes attention.

Small compiled kernels of ours read blocks in place where a C compiler was found, one for single query rows (decodes),
one for many (prefill chunks, groups): no library reads a paged arena on a CPU. A row's result is the same, bit by bit,
in every batch (``chain``), in bfloat16 as in float32. One more writes the step's keys and values (``compiled``).

Where there is no compiler, and for what the kernels do not know (float16, e4m3, other head sizes), PyTorch serves the
work items of the plan (``calls``): every call gives a partial result with its log-sum-exp, and the partial results of
a row are merged with weights 2 ** (lse - total). Query heads that share a key head are never repeated: without
causality they are further rows of the same matrix, with causality K and V are expanded with stride 0.

Invariants: slots behind a sequence's fill mark are never read; logarithms are base 2; an empty result has
log-sum-exp -inf and weight 0, never NaN; sinks join the denominator once, after merging.
"""

from __future__ import annotations

import structlog
import torch

from quire_engine.attention.backend import Copies
from quire_engine.attention.plan import AttentionPlan
from quire_engine.checkpoint.kv_scales import KvScales
from quire_kernels.cpu.call import DTYPES, WIDTHS
from quire_kernels.cpu.decode import supports
from quire_kernels.cpu.host_library import NoHostLibrary, load
from quire_kv import Layout

from .calls import Call, Calls, prepare
from .compiled import CompiledAttention
from .pytorch import Partials, merge, partial_attention
from .slots import Slots

log = structlog.get_logger()


class CpuAttention:
    """Attention backend on host memory.

    Args:
        arena: (layer, 2, kv_head, block, slot, d), C-contiguous; see ``quire_proto.wire.layout.Layout.shape``.
        scales: of an e4m3 arena; all 1 if not given.
        compiled: False leaves everything to PyTorch, to compare.
    """

    def __init__(self, arena: torch.Tensor, scales: KvScales | None = None, compiled: bool = True) -> None:
        assert arena.dim() == 6, f"not an arena: {tuple(arena.shape)}"
        assert arena.is_contiguous(), "consecutive blocks must be one matrix"
        self.arena = arena
        self.block_size = arena.shape[4]
        self._compiled = CompiledAttention(arena) if compiled and supports(arena) and _can_compile() else None
        self._slots = Slots(arena, scales)

    @torch.no_grad()
    def write_kv(self, layer: int, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan) -> None:
        """Store the step's keys and values; see :class:`AttentionBackend`."""
        if self._compiled is not None:
            self._compiled.write(layer, key, value, plan)
        else:
            self._slots.write(layer, torch.from_numpy(plan.slots), (key, value))

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
        assert plan.block_size == self.block_size, "plan and arena differ in block size"
        if self._compiled is not None:
            return self._compiled.attend(layer, query, plan, scale, window, softcap, sinks)
        query = query.view(self.arena.shape[2], -1, *query.shape[1:])
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

    def _calls(self, plan: AttentionPlan, window: int | None) -> Calls:
        """PyTorch's calls of the step for this window, derived by the first layer that needs them."""
        name = (Calls, plan.seen(window))
        found = plan.prepared.get(name)
        if found is None:
            found = plan.prepared[name] = prepare(plan, plan.seen(window))
        assert isinstance(found, Calls)
        return found


def kernels_in_words(layout: Layout) -> str:
    """What computes attention over such a pool on this machine's CPU, and why that is not the compiled kernels."""
    if layout.dtype not in DTYPES.values() or layout.head_dim not in WIDTHS:
        return f"PyTorch: the compiled kernels do not know {layout.dtype} with heads of {layout.head_dim}"
    try:
        library = load()
    except NoHostLibrary as exc:
        return f"PyTorch: the kernels in C are not compiled: {exc}"
    if layout.dtype == "float32":
        return "C, compiled for this processor"
    how = "by AVX512-BF16" if library.quire_cpu_multiplies_pairs() else "widened to float32"
    return f"C, compiled for this processor, {layout.dtype} {how}"


def _can_compile() -> bool:
    """Whether the compiled kernels are there; if not the log says why, once a backend."""
    try:
        load()
    except NoHostLibrary as exc:
        log.info("attention_without_compiled_kernels", reason=str(exc))
        return False
    return True
