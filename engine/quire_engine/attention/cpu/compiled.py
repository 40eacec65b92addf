"""Attention by the compiled kernels: their calls, laid out once a step and run by every layer.

The layers of a step differ in where their tensors lie, and in their windows if they have any; checks, arrays and
structures are the same. So a call is made by the first layer that needs it, under a key of all that it depends on, and
each layer fills in addresses: what lies between two kernels is a few microseconds.

Rows' states are memory of the step, which the next layer uses again; results are the layer's own.

Invariants: a call is run with tensors of the very form that it was checked with; it holds what it has addresses of.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from quire_engine.attention.plan import AttentionPlan
from quire_kernels.cpu.call import AttentionCall, RowStates, base2
from quire_kernels.cpu.decode import decode_call
from quire_kernels.cpu.tiles import tiles_call
from quire_kernels.cpu.write import WriteCall

from .chain import chain


@dataclass(frozen=True, slots=True)
class _LayerCalls:
    """The calls of a layer, in their order; and the shape of its result, [T, heads, d]."""

    calls: list[AttentionCall]
    shape: tuple[int, int, int]


class CompiledAttention:
    """Writes and attention over one arena, of a dtype and width that the kernels know.

    It serves one step at a time.
    """

    def __init__(self, arena: torch.Tensor) -> None:
        self._form = arena[0, 0]  # of every layer's keys, and of its values
        self._dtype = arena.dtype
        self._addresses = [(layer[0].data_ptr(), layer[1].data_ptr()) for layer in arena]
        self._sinks: dict[int, tuple[torch.Tensor, torch.Tensor | None]] = {}  # of a layer: as given, as kernels read

    def write(self, layer: int, key: torch.Tensor, value: torch.Tensor, plan: AttentionPlan) -> None:
        """Store the step's keys and values; see :class:`AttentionBackend`."""
        name = (self, "write", key.shape, key.stride(), value.shape, value.stride(), key.dtype, value.dtype)
        call = plan.prepared.get(name)
        if call is None:
            slots, threads = torch.from_numpy(plan.slots), torch.get_num_threads()
            call = plan.prepared[name] = WriteCall(key, value, self._form, self._form, slots, threads)
        assert isinstance(call, WriteCall)
        call.run(key.data_ptr(), value.data_ptr(), *self._addresses[layer])

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        plan: AttentionPlan,
        scale: float,
        window: int | None,
        softcap: float | None,
        sinks: torch.Tensor | None,
    ) -> torch.Tensor:
        """Attention of all query tokens of the step; see :class:`AttentionBackend`."""
        name = (self, query.shape, query.stride(), query.dtype, scale, window, softcap)
        found = plan.prepared.get(name)
        if found is None:
            found = plan.prepared[name] = self._calls(query, plan, scale, window, softcap)
        assert isinstance(found, _LayerCalls)
        result = torch.empty(found.shape, dtype=self._dtype)
        logits = None if sinks is None else self._logits(layer, sinks, query.shape[0])
        to, extra = result.data_ptr(), None if logits is None else logits.data_ptr()
        for call in found.calls:
            call.run(query.data_ptr(), *self._addresses[layer], to, extra)
        return result

    def _calls(
        self, query: torch.Tensor, plan: AttentionPlan, scale: float, window: int | None, softcap: float | None
    ) -> _LayerCalls:
        heads, rows, width = query.shape
        split = query.view(self._form.shape[0], -1, rows, width)
        steps = chain(plan, plan.seen(window))
        states = self._states(plan, split)
        how = (scale, softcap, torch.get_num_threads())
        tiles = [one for one in [*steps.shared, steps.chunks] if one is not None]
        calls = [tiles_call(split, self._form, self._form, one, states, *how) for one in tiles]
        if steps.singles is not None:
            calls.append(decode_call(split, self._form, self._form, steps.singles, states, *how))
        return _LayerCalls(calls, (rows, heads, width))

    def _states(self, plan: AttentionPlan, split: torch.Tensor) -> RowStates:
        """Those of the step, for queries of this shape."""
        name = (RowStates, split.shape)
        found = plan.prepared.get(name)
        if found is None:
            found = plan.prepared[name] = RowStates.of(split)
        assert isinstance(found, RowStates)
        return found

    def _logits(self, layer: int, sinks: torch.Tensor, heads: int) -> torch.Tensor | None:
        """A layer's sinks as the kernels read them; they are weights, so a layer's are converted once."""
        found = self._sinks.get(layer)
        if found is None or found[0] is not sinks:
            found = self._sinks[layer] = (sinks, base2(sinks, heads))
        return found[1]
