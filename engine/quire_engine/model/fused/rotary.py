"""Rotary positions in one pass, for models that compute in float32 on a CPU.

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
ROTATION_TOLERANCE = 1e-5  # relative to values of about 1

Rotation = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def fuse_rotary(module: torch.nn.Module) -> int:
    """Replace the function in the modelling files of ``module``; returns in how many it is replaced."""
    weights = next(module.parameters(), None)
    if weights is None or weights.dtype != torch.float32 or weights.device.type != "cpu":
        return 0
    files = {sys.modules[type(part).__module__] for part in module.modules()}
    return sum(_replace(file) for file in files)


def _replace(file: ModuleType) -> bool:
    original: Rotation | None = getattr(file, ROTARY_FUNCTION, None)
    if original is None:
        return False
    if not hasattr(original, "before_quire"):
        if not _same(original):
            return False
        setattr(file, ROTARY_FUNCTION, _fused(original))
    return True


def _fused(original: Rotation) -> Rotation:
    @functools.wraps(original)
    def rotate(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if in_step() and not kwargs and len(args) == 4 and _known(*args):
            return _rotated(*args)
        return original(*args, **kwargs)

    rotate.before_quire = original  # type: ignore[attr-defined]
    return rotate


def _known(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether these are [1, heads, T, d] and whole angles [1, T, d], all float32 on a CPU."""
    angles = (1, q.shape[2], q.shape[-1])
    return (
        all(x.dtype == torch.float32 and x.device.type == "cpu" for x in (q, k, cos, sin))
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
def _same(original: Rotation) -> bool:
    """Whether ours gives what ``original`` gives, for angles that belong to no positions."""
    draw = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 4, 3, 64, generator=draw), torch.randn(1, 2, 3, 64, generator=draw)
    cos, sin = torch.randn(2, 1, 3, 64, generator=draw)
    try:
        expected, got = original(q, k, cos, sin), _rotated(q, k, cos, sin)
    except (NoHostLibrary, RuntimeError, TypeError, ValueError):  # no compiler; or it takes something else
        return False
    return all(
        mine.shape == theirs.shape and bool((mine - theirs).abs().max() <= ROTATION_TOLERANCE)
        for mine, theirs in zip(got, expected, strict=True)
    )
