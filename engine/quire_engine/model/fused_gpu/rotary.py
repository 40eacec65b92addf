"""Rotary positions of queries and keys in one launch, for models on a GPU.

As on a CPU (``fused.rotary``) the name in the modelling file is what can be replaced: within a step of ours it takes
our kernel, wherever else it is called, and for whatever the kernel does not know, the function that was there. So the
self-test, whose reference runs in no step, compares the two in the model's own layers.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

from quire_engine.attention.hook import in_step
from quire_kernels.gpu.layers.rotate import rotate

from .trial import EACH, agree

APPLY = "apply_rotary_pos_emb"  # the function's name in every modelling file

Rotate = Callable[..., tuple[torch.Tensor, torch.Tensor]]


def fuse_gpu_rotary(module: torch.nn.Module) -> int:
    """Replace the function in the modelling files of ``module``; returns in how many it is replaced."""
    like = next((weight for weight in module.parameters() if weight.is_floating_point()), None)
    files = {sys.modules[type(part).__module__] for part in module.modules()}
    return 0 if like is None else sum(_replace(file, like) for file in files)


def _replace(file: ModuleType, like: torch.Tensor) -> bool:
    original: Rotate | None = getattr(file, APPLY, None)
    if original is None:
        return False
    if not hasattr(original, "before_gpu"):
        if not _same(original, like):
            return False
        setattr(file, APPLY, _fused(original))
    return True


def _fused(original: Rotate) -> Rotate:
    @functools.wraps(original)
    def rotated(*args: Any, **kwargs: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if in_step() and not kwargs and len(args) == 4 and _known(*args):
            return _rotated(*args)
        return original(*args, **kwargs)

    rotated.before_gpu = original  # type: ignore[attr-defined]
    return rotated


def _known(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> bool:
    """Whether these are [1, heads, T, d] and whole angles [1, T, d], all of one dtype."""
    angles = (1, q.shape[2], q.shape[-1])
    return (
        q.dim() == k.dim() == 4
        and q.shape[0] == k.shape[0] == 1
        and k.shape[2:] == q.shape[2:]
        and cos.shape == sin.shape == angles
        and q.dtype == k.dtype == cos.dtype == sin.dtype
        and q.shape[-1] % 2 == 0
        and q.stride(-1) == k.stride(-1) == 1
        and cos.is_contiguous()
        and sin.is_contiguous()
    )


def _rotated(
    q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    query, key = rotate(q[0], k[0], cos[0], sin[0])
    return query[None], key[None]


@torch.no_grad()
def _same(original: Rotate, like: torch.Tensor) -> bool:
    """Whether ours gives what ``original`` gives, for angles that belong to no positions."""
    draw = torch.Generator().manual_seed(0)
    shapes = ((1, 4, EACH, 64), (1, 2, EACH, 64), (1, EACH, 64), (1, EACH, 64))
    tried = [torch.randn(shape, generator=draw).to(like.device, like.dtype) for shape in shapes]
    try:
        expected, got = original(*tried), _rotated(*tried)
    except (RuntimeError, TypeError, ValueError):  # it takes something else
        return False
    return len(expected) == 2 and all(agree(*pair) for pair in zip(got, expected, strict=True))
