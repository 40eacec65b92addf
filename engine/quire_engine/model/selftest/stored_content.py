"""The self-test of a pool that stores keys and values more coarsely than the model computes them.

Owns two questions that are one where nothing is rounded on the way. *Is it stored as it should be?* Every key and
value found in the arena is compared with what the model computes under eager attention: within range an e4m3 number is
off by at most 1/16 of itself, so a row that is off by more was clamped, lost below the smallest numbers, or written
wrongly. *Is it read as it should be?* Eager attention runs once more with the arena's own content in place of the
model's keys and values; both then attend to the same numbers, and the tolerance is that of the model's dtype alone.

Comparing with an eager run that rounds for itself would not do: a value between two e4m3 numbers goes to one side here
and to the other there, and the tolerance would have to allow for it.
"""

from __future__ import annotations

import numpy as np
import torch

from quire_engine.checkpoint.architecture import ModelRefused
from quire_engine.checkpoint.kv_scales import KvScales
from quire_engine.model.model import Model

from .eager import Modules, Probe, Reference, Replacing, Seen, eager, judge, tolerance

ROUNDING = 1 / 16  # half a step of e4m3, relative to the smallest number with that step


class StoredContent:
    """What paged attention gave over a coarse arena, kept until the arena is full and can be judged.

    Args:
        arena: (layer, 2, kv_head, block, slot, d).
        scales: of the arena.
    """

    def __init__(self, arena: torch.Tensor, scales: KvScales, probes: list[Probe]) -> None:
        self._arena, self._probes = arena, probes
        self._scales = torch.from_numpy(np.stack([scales.keys, scales.values], 1)).to(arena.device)
        self._first = [probe.done for probe in probes]
        self._got: list[dict[int, list[torch.Tensor]]] = [{} for _ in probes]

    def keep(
        self, layer: int, rows: torch.Tensor, parts: list[tuple[int, int]], _: torch.Tensor, __: np.ndarray
    ) -> None:
        """Note a layer's output rows of one step; ``parts`` are (probe, number of rows) in their order."""
        for (probe, _count), part in zip(parts, torch.split(rows, [n for _, n in parts]), strict=True):
            self._got[probe].setdefault(layer, []).append(part.clone())

    def judge(self, model: Model, modules: Modules, reference: Reference) -> None:
        """Raise ModelRefused unless all is stored and read as it should be."""
        for number, probe in enumerate(self._probes):
            stored = {layer: self._content(layer, probe, model.module.dtype) for layer in modules}
            for layer, content in stored.items():
                if layer not in reference.content[number]:
                    raise ModelRefused(f"self-test: layer {layer} shows its keys and values to no cache")
                self._judge_rounding(layer, content, reference.content[number][layer])
            pure = reference.outputs[number]
            eager(model, modules, probe, Replacing(stored), self._reading(modules, number, pure))

    def _reading(self, modules: Modules, number: int, pure: dict[int, torch.Tensor]) -> Seen:
        """Judges each layer of an eager run over the arena's content; layers go on with what they gave without it."""
        first = self._first[number]

        def read(layer: int, output: torch.Tensor) -> torch.Tensor:
            what = f"attention of layer {layer} ({type(modules[layer]).__name__}) over what is stored"
            positions = np.arange(first, output.shape[1])
            judge(what, torch.cat(self._got[number][layer]), output[0, first:], positions)
            return pure[layer].unsqueeze(0)

        return read

    def _content(self, layer: int, probe: Probe, dtype: torch.dtype) -> torch.Tensor:
        """[2, kv_heads, T, d] of a sequence, as the model computes."""
        table = torch.from_numpy(probe.table).long().to(self._arena.device)
        blocks = self._arena[layer][:, :, table].float() * self._scales[layer][..., None, None, None]
        return blocks.flatten(2, 3)[:, :, : len(probe.tokens)].to(dtype)

    def _judge_rounding(self, layer: int, stored: torch.Tensor, exact: torch.Tensor) -> None:
        """Each row against itself, or against a typical one of its head if it is shorter than that."""
        length = exact.float().norm(dim=-1)
        length = length.maximum(length.mean(-1, keepdim=True)).clamp_min(1e-20)
        change = ((stored.float() - exact.float()).norm(dim=-1) / length).nan_to_num(torch.inf).amax(-1)
        limit = ROUNDING + tolerance(exact.dtype)
        for kind, name in enumerate(("keys", "values")):
            head = int(change[kind].argmax())
            if not float(change[kind, head]) <= limit:
                raise ModelRefused(
                    f"self-test: {name} of layer {layer}, KV head {head}, are stored with an error of"
                    f" {float(change[kind, head]):.2g} (allowed: {limit:.2g}) at scale"
                    f" {float(self._scales[layer, kind, head]):g}: let 'quire calibrate' find scales that fit,"
                    " or set kvstore.kv_cache_dtype = auto"
                )
