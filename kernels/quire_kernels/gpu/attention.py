"""Attention of one layer: the regimes of paged_attention, then the merge.

Owns the order of launches and the scratch memory between them. Everything that a step needs for this was prepared
once (``tiling``, ``device_work``): here is only what each layer repeats.
"""

from __future__ import annotations

import torch

from quire_kernels.features import Features

from .device_work import DeviceWork
from .launch_table import Launch
from .merge_partials import merge_partials
from .paged_attention import paged_attention
from .tiling import REGIMES


class Scratch:
    """Partial results between the kernels of one layer; grows to the largest step, then stays where it is.

    One stream must use it at a time. Reserve what a captured graph needs before capturing it.
    """

    def __init__(self, heads: int, head_dim: int, device: torch.device) -> None:
        self.out = torch.empty(0, heads, head_dim, dtype=torch.float32, device=device)
        self.lse = torch.empty(0, heads, dtype=torch.float32, device=device)

    def reserve(self, places: int) -> None:
        """Room for ``places`` partial results of a row."""
        if places > self.out.shape[0]:
            self.out = self.out.new_empty(places, *self.out.shape[1:])
            self.lse = self.lse.new_empty(places, self.lse.shape[1])


def attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    work: DeviceWork,
    launches: dict[str, Launch],
    features: Features,
    scratch: Scratch,
    out: torch.Tensor,
    sm_count: int,
) -> torch.Tensor:
    """Attention of all query rows of the step; arguments as for ``paged_attention``.

    Args:
        launches: by regime; ``work`` was tiled for their ``block_m``.
        out: [T, heads, d]; rows of no sequence keep what they hold.

    Returns:
        ``out``.
    """
    scratch.reserve(work.capacity.merge_places)
    for regime in REGIMES:
        paged_attention(
            query, keys, values, work, regime, launches[regime], features, out, scratch.out, scratch.lse, sm_count
        )
    merge_partials(
        scratch.out,
        scratch.lse,
        out,
        work.merge_rows,
        work.merge_ptr,
        work.merge_places,
        work.count("merge"),
        features.sinks,
    )
    return out
