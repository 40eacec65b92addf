"""What a loaded model is made of beside transformers' code: every tensor, and every fused layer with its parts.

Owns the two ways between a model and tensors with a table of JSON: ``describe`` takes a model apart, ``put_together``
makes one of it over a bare model (``bare_model``) of the same configuration. A table names layers by their paths, and
tensors by number, one that several names share once.

Nothing is described that ``put_together`` would not put back: whatever a bare model lacks, or has and the model does
not, is refused. What a model may write while it runs, its buffers, is copied for each process; parameters and fused
layers' parts are never written, and lie wherever the tensors given lie.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch

from quire_engine.checkpoint.shared.directory import Unshared
from quire_engine.model.fused.experts import FusedExperts
from quire_engine.model.fused.layer_parts import LayerParts
from quire_engine.model.fused.layers import FusedGate, FusedNorm
from quire_engine.model.fused.linear import PackedLinear, join_mates

FUSED: Mapping[str, Any] = {"linear": PackedLinear, "norm": FusedNorm, "gate": FusedGate, "experts": FusedExperts}
_KINDS = {kind: name for name, kind in FUSED.items()}
PARAMETER, BUFFER, ATTRIBUTE = "parameter", "buffer", "attribute"


def describe(module: torch.nn.Module, bare: torch.nn.Module) -> tuple[dict[str, Any], list[torch.Tensor]]:
    """A table and the tensors that it numbers. Raises Unshared if ``bare`` could not become ``module``."""
    tensors = _Tensors()
    layers = [_layer(path, layer, tensors) for path, layer in _fused(module)]
    paths = [layer["path"] for layer in layers]
    found, expected = dict(_own(module, paths)), dict(_own(bare, paths))
    if differing := set(found) ^ set(expected):
        kind, path = min(differing)
        raise Unshared(f"the {kind} {path} comes or goes while it is loaded")
    held = [[kind, path, tensors.number(tensor)] for (kind, path), tensor in found.items()]
    return {"layers": layers, "held": held}, tensors.all


def put_together(bare: torch.nn.Module, table: Mapping[str, Any], tensors: Sequence[torch.Tensor]) -> torch.nn.Module:
    """The model that was described, of ``bare``, which it replaces."""
    for layer in table["layers"]:
        numbered = {name: [tensors[number] for number in numbers] for name, numbers in layer["tensors"].items()}
        made = FUSED[layer["kind"]].from_parts(
            bare.get_submodule(layer["path"]), LayerParts(layer["numbers"], numbered)
        )
        parent, name = _parent(bare, layer["path"])
        setattr(parent, name, made)
    parameters: dict[int, torch.nn.Parameter] = {}
    for kind, path, number in table["held"]:
        owner, name = _parent(bare, path)
        if kind == PARAMETER:
            if number not in parameters:
                parameters[number] = torch.nn.Parameter(tensors[number], requires_grad=False)
            owner._parameters[name] = parameters[number]
        elif kind == BUFFER:
            owner._buffers[name] = tensors[number].clone()
        else:
            setattr(owner, name, tensors[number].clone())
    if left := [path for (_, path), tensor in _own(bare, ()) if tensor.is_meta]:
        raise ValueError(f"nothing was kept of {left[0]}")
    join_mates(bare)
    return bare


class _Tensors:
    """Tensors by number, each once: those that are the same numbers at the same place are one."""

    def __init__(self) -> None:
        self.all: list[torch.Tensor] = []
        self._numbers: dict[Any, int] = {}

    def number(self, tensor: torch.Tensor) -> int:
        tensor = tensor.detach()
        if tensor.is_meta:
            raise Unshared("a tensor without content")
        key = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride()) if tensor.numel() else len(self.all)
        if key not in self._numbers:
            self._numbers[key] = len(self.all)
            self.all.append(tensor)
        return self._numbers[key]


def _fused(module: torch.nn.Module) -> list[tuple[str, Any]]:
    """Fused layers by path, those inside others before these."""
    found = [(path, layer) for path, layer in module.named_modules() if type(layer) in _KINDS]
    return sorted(found, key=lambda one: -one[0].count("."))


def _layer(path: str, layer: Any, tensors: _Tensors) -> dict[str, Any]:
    parts: LayerParts = layer.parts()
    numbered = {name: [tensors.number(tensor) for tensor in each] for name, each in parts.tensors.items()}
    return {"path": path, "kind": _KINDS[type(layer)], "numbers": dict(parts.numbers), "tensors": numbered}


def _own(module: torch.nn.Module, without: Sequence[str]) -> Iterator[tuple[tuple[str, str], torch.Tensor]]:
    """Every tensor of every layer that is not inside one of those ``without``, by what it is to it and its path."""
    fused = tuple(f"{path}." for path in without)
    for path, layer in module.named_modules(remove_duplicate=False):
        if f"{path}.".startswith(fused) and fused:
            continue
        prefix = f"{path}." if path else ""
        kinds: tuple[tuple[str, Mapping[str, Any], Callable[[Any], bool]], ...] = (
            (PARAMETER, layer._parameters, lambda value: value is not None),
            (BUFFER, layer._buffers, lambda value: value is not None),
            (ATTRIBUTE, vars(layer), lambda value: isinstance(value, torch.Tensor)),
        )
        for kind, held, counts in kinds:
            for name, value in held.items():
                if counts(value):
                    yield (kind, f"{prefix}{name}"), value


def _parent(module: torch.nn.Module, path: str) -> tuple[torch.nn.Module, str]:
    above, _, name = path.rpartition(".")
    return module.get_submodule(above), name
