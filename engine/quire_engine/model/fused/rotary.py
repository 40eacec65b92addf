"""Rotary positions in one pass, for models that compute in float32 or bfloat16 on a CPU.

transformers' models rotate queries and keys in a function of their own modelling file, ten small operations a layer.
It is no part of the model that could be replaced, so the name in that file is: within a step of ours it takes our
kernel, wherever else it is called, and for whatever the kernel does not know, the function that was there.

No model is known by name: a file's function is replaced only if ours gives the same; files that rotate neighbours
instead of halves, or only a part of each head, keep theirs.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from quire_engine.attention.hook import in_step
from quire_kernels.cpu.host_library import NoHostLibrary
from quire_kernels.cpu.rotate import PAIR, cpu_rotate

ROTARY_FUNCTION = "apply_rotary_pos_emb"
ROTATION_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 0.0}  # relative to values of about 1

Rotation = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def fuse_rotary(module: torch.nn.Module) -> int:
    """Replace the function in the modelling files of ``module``; returns in how many it is replaced."""
    weights = next(module.parameters(), None)
    if weights is None or weights.dtype not in ROTATION_TOLERANCE or weights.device.type != "cpu":
        return 0
    files = {sys.modules[type(part).__module__] for part in module.modules()}
    return sum(weights.dtype in _replace(file) for file in files)


def _replace(file: ModuleType) -> frozenset[torch.dtype]:
    """The types for which it is replaced: all in which ours was proved, whatever the model at hand computes in."""
    original: Any = getattr(file, ROTARY_FUNCTION, None)
    if original is None:
        return frozenset()
    if not hasattr(original, "before_quire"):
        proved = frozenset(dtype for dtype in ROTATION_TOLERANCE if _same(original, dtype))
        if not proved:
            return proved
        original = _fused(original, proved)
        setattr(file, ROTARY_FUNCTION, original)
    found: frozenset[torch.dtype] = original.proved
    return found


def _fused(original: Rotation, proved: frozenset[torch.dtype]) -> Rotation:
    @functools.wraps(original)
    def rotate(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if in_step() and not kwargs and len(args) == 4 and args[0].dtype in proved and _known(*args):
            return _rotated(*args)
        return original(*args, **kwargs)

    rotate.before_quire, rotate.proved = original, proved  # type: ignore[attr-defined]
    return rotate


def _known(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether these are [1, heads, T, d] and whole angles [1, T, d], all of one type on a CPU."""
    angles = (1, q.shape[2], q.shape[-1])
    return (
        all(x.dtype == q.dtype and x.device.type == "cpu" for x in (q, k, cos, sin))
        and q.dim() == k.dim() == 4
        and q.shape[0] == k.shape[0] == 1
        and k.shape[2:] == q.shape[2:]
        and cos.shape == sin.shape == angles
        and q.shape[-1] % PAIR == 0
    )


def _rotated(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    threads = torch.get_num_threads()
    return cpu_rotate(q[0], cos[0], sin[0], threads)[None], cpu_rotate(k[0], cos[0], sin[0], threads)[None]


@torch.no_grad()
def _same(original: Rotation, dtype: torch.dtype) -> bool:
    """Whether ours gives what ``original`` gives, for angles that belong to no positions; bit by bit in bfloat16."""
    draw = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, heads, 3, 64, generator=draw).to(dtype) for heads in (4, 2))
    cos, sin = torch.randn(2, 1, 3, 64, generator=draw).to(dtype)
    try:
        expected, got = original(q, k, cos, sin), _rotated(q, k, cos, sin)
    except (NoHostLibrary, RuntimeError, TypeError, ValueError):  # no compiler; or it takes something else
        return False
    return all(
        mine.shape == theirs.shape
        and mine.dtype == theirs.dtype
        and bool((mine - theirs).abs().max() <= ROTATION_TOLERANCE[dtype])
        for mine, theirs in zip(got, expected, strict=True)
    )
