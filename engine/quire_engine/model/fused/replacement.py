"""Putting fused layers in the places of those that they stand for, wherever these are in a model."""

from __future__ import annotations

from collections.abc import Callable

import torch


def replace_layers(module: torch.nn.Module, find: Callable[[torch.nn.Module], torch.nn.Module | None]) -> int:
    """Replace each layer inside ``module`` for which ``find`` has another one; returns how many were replaced."""
    count = 0
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            found = find(child)
            if found is not None:
                setattr(parent, name, found)
                count += 1
    return count
