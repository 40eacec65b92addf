"""Attention over a paged arena on a CPU, in PyTorch.

Owns the layers' reads and writes of the arena for one step. ``write_kv`` stores the step's keys and values,
``attend`` computes attention from the work items of the plan: every call gives a partial result with its
log-sum-exp, and the partial results of a row are merged with weights 2 ** (lse - total).

Small compiled kernels of ours read blocks in place where a C compiler was found, one for single query rows (decodes),
one for many (prefill chunks, groups): no library reads a paged arena on a CPU. Two more write the step's keys and
values and merge partial results, each in one call. Where there is no compiler, and for what the kernels do not know
(other dtypes, soft-cap), PyTorch serves.

PyTorch's fused CPU kernel returns the log-sum-exp and never forms the score matrix; what it lacks (soft-cap) takes
an unfused path of the same signature. Query heads that share a key head are never repeated: without causality they
are further rows of the same matrix, with causality K and V are expanded with stride 0.

Invariants: slots behind a sequence's fill mark are never read; logarithms are base 2; an empty result has
log-sum-exp -inf and weight 0, never NaN; sinks join the denominator once, after merging.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import structlog
import torch

from quire_engine.attention.plan import AttentionPlan
from quire_engine.files.kv_scales import KvScales
from quire_kernels.cpu.cpu_decode import cpu_decode, supports
from quire_kernels.cpu.cpu_merge import cpu_merge
from quire_kernels.cpu.cpu_tiles import cpu_tiles
from quire_kernels.cpu.cpu_write import cpu_write
from quire_kernels.cpu.host_library import NoHostLibrary, load

from .calls import Call, Calls, prepare
from .slots import Slots

LOG2_E = math.log2(math.e)
log = structlog.get_logger()
UNFUSED_SCORES = 1 << 22  # score elements the unfused path holds at a time


@dataclass(frozen=True, slots=True)
class Partials:
    """Partial results of a step: ``out`` [kv_heads, places + 1, group, d] and base-2 ``lse`` [.., group].

    The last place holds the empty result, where there are several results a row.
    """

    out: torch.Tensor
    lse: torch.Tensor

    @classmethod
    def empty(cls, kv_heads: int, places: int, group: int, width: int) -> Partials:
        """Room for ``places`` results, in float32 whatever the model's dtype."""
        out = torch.empty((kv_heads, places + 1, group, width))
        lse = torch.empty((kv_heads, places + 1, group))
        out[:, -1], lse[:, -1] = 0.0, -math.inf
        return cls(out, lse)

    @classmethod
    def of_rows(cls, kv_heads: int, rows: int, group: int, width: int) -> Partials:
        """Room for one result a row, and no empty one; in memory ``out`` is [rows, kv_heads, group, d]."""
        out = torch.empty((rows, kv_heads, group, width))
        return cls(out.transpose(0, 1), torch.empty((kv_heads, rows, group)))


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
        """Store the step's ``key`` and ``value``, each [kv_heads, T, d], in the slots of the plan."""
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
        """Attention of all query rows of the step; the step's own K and V must be written already.

        Args:
            query: [heads, T, d].
            scale: factor on the scores.
            window: a row sees at most this many keys, its own included.
            softcap: scores become ``softcap * tanh(score / softcap)``.
            sinks: [heads] logits that join each head's softmax without a value.

        Returns:
            [T, heads, d], dtype of ``query``.
        """
        kv_heads, width = self.arena.shape[2], self.arena.shape[5]
        calls = self._calls(plan, window, self._compiled and softcap is None)
        query = query.view(kv_heads, -1, *query.shape[1:])
        alone = calls.alone and sinks is None
        room = Partials.of_rows if alone else Partials.empty
        part = room(kv_heads, calls.partials, query.shape[1], width)
        keys, values, threads = *self.arena[layer], torch.get_num_threads()
        if calls.tiles is not None:
            cpu_tiles(query, keys, values, calls.tiles, part.out, part.lse, scale, threads)
        if calls.rows is not None:
            cpu_decode(query, keys, values, calls.rows, part.out, part.lse, scale, threads)
        for call in calls.calls:
            self._run(call, layer, query, part, scale, softcap)
        if alone:
            return part.out.transpose(0, 1).flatten(1, 2)
        if self._compiled:
            return cpu_merge(part.out, part.lse, calls.merge_index, sinks, threads)
        return _merge(part, calls.merge_index, sinks).to(query.dtype)

    def copy_blocks(self, copies: list[tuple[int, int, int]]) -> None:
        """Copy the first ``slots`` slots of block ``src`` to ``dst`` in all layers, for rows (src, dst, slots).

        A row with ``src`` -1 zeroes them instead.
        """
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
            out, lse = _attention(rows, keys, values, scale, softcap, call.hidden, call.causal)
            out, lse = out.transpose(1, 2), lse.transpose(1, 2)
        else:
            # All rows of an item see the same keys: the query heads of a key head are further rows.
            folded = rows.transpose(1, 2).reshape(kv_heads, call.items, -1, width)
            keys, values = (x.view(kv_heads, call.items, -1, width) for x in (keys, values))
            out, lse = _attention(folded, keys, values, scale, softcap, call.hidden, False)
        place = slice(call.place, call.place + call.partials)
        part.out[:, place] = out.reshape(kv_heads, -1, group, width)
        part.lse[:, place] = lse.reshape(kv_heads, -1, group)

    def _calls(self, plan: AttentionPlan, window: int | None, compiled: bool) -> Calls:
        """The step's calls for this window, derived by the first layer that needs them."""
        assert plan.block_size == self.block_size, "plan and arena differ in block size"
        items = plan.items(window)
        key = ("cpu", items.window, compiled)
        calls = plan.prepared.get(key)
        if calls is None:
            calls = plan.prepared[key] = prepare(plan, items.window, compiled)
        assert isinstance(calls, Calls)
        return calls


def _can_compile() -> bool:
    """Whether the compiled kernels are there; if not the log says why, once a backend."""
    try:
        load()
    except NoHostLibrary as exc:
        log.info("attention_without_compiled_kernels", reason=str(exc))
        return False
    return True


def _attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    softcap: float | None,
    hidden: torch.Tensor | None,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention with base-2 log-sum-exp: [b, h, n, d], [b, h, L, d] -> [b, h, n, d], [b, h, n].

    ``hidden`` broadcasts to [b, h, n, L]; no row may be hidden from all keys. ``causal`` needs n = L.
    """
    if softcap is not None:
        return _unfused(query, key, value, scale, softcap, hidden, causal)
    mask = None
    if hidden is not None:
        mask = torch.zeros(hidden.shape, dtype=query.dtype).masked_fill_(hidden, -math.inf)
        mask = mask.expand(*query.shape[:3], key.shape[2])
    causal = causal and mask is None  # a window's mask already hides what lies ahead
    out, lse = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        query, key, value, 0.0, causal, attn_mask=mask, scale=scale
    )
    return out, lse * LOG2_E


def _unfused(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    scale: float,
    softcap: float,
    hidden: torch.Tensor | None,
    causal: bool,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as :func:`_attention` with soft-capped scores, in float32, a bounded number of rows at a time."""
    count, length = query.shape[2], key.shape[2]
    if causal and hidden is None:
        hidden = torch.ones(count, length, dtype=torch.bool).triu(1)
    step = max(1, UNFUSED_SCORES // (query.shape[0] * query.shape[1] * length))
    key, value = key.float(), value.float()
    outs, lses = [], []
    for begin in range(0, count, step):
        scores = query[:, :, begin : begin + step].float() @ key.transpose(-1, -2)
        scores.mul_(scale / softcap).tanh_().mul_(softcap)
        if hidden is not None:
            part = hidden if hidden.shape[-2] == 1 else hidden[..., begin : begin + step, :]
            scores.masked_fill_(part, -math.inf)
        lse = scores.logsumexp(-1, keepdim=True)
        outs.append(scores.sub_(lse).exp_() @ value)
        lses.append(lse.squeeze(-1) * LOG2_E)
    return (outs[0], lses[0]) if len(outs) == 1 else (torch.cat(outs, 2), torch.cat(lses, 2))


def _merge(part: Partials, index: torch.Tensor, sinks: torch.Tensor | None) -> torch.Tensor:
    """Merge partial results to [T, heads, d]; ``index`` is [T, K], the places of each row's partial results."""
    rows, most = index.shape
    kv_heads, _, group, width = part.out.shape
    flat = index.reshape(-1)
    out = part.out.index_select(1, flat).view(kv_heads, rows, most, group, width)
    if most > 1 or sinks is not None:
        lse = part.lse.index_select(1, flat).view(kv_heads, rows, most, group)
        top = lse.amax(2, keepdim=True)
        top.masked_fill_(top == -math.inf, 0.0)  # an empty row: weights 0, not exp2(-inf + inf)
        weight = torch.exp2(lse - top)
        total = weight.sum(2, keepdim=True)
        if sinks is not None:
            total = total + torch.exp2(sinks.float().view(kv_heads, 1, 1, group) * LOG2_E - top)
        weight /= total.clamp_min_(torch.finfo(torch.float32).tiny)
        out = out * weight.unsqueeze(-1)
    return out.sum(2).permute(1, 0, 2, 3).reshape(rows, kv_heads * group, width)
