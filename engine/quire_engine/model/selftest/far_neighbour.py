"""Whether a sequence is computed alike beside one that stands at the last position that is served.

Some models choose their frequencies by the highest position of the batch. A short sequence shows nothing of that, nor
do probes of a few blocks: only a neighbour far away does. Such a neighbour costs nothing here: its one token is given
the last position, and attends to itself alone.
"""

from __future__ import annotations

import numpy as np
import torch

from quire_engine.attention.plan import build_plan
from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.model.model import Model

from .eager import distances

LONGEST_PROBE = 24


def check_far_neighbour(model: Model, block_size: int, limit: float) -> None:
    """Raise ModelRefused if logits move by more than ``limit``. The backend's arena has blocks for the probe, from 0
    on, and one more."""
    last = model.max_model_len - 1
    count = min(LONGEST_PROBE, 2 * block_size, last)
    if count < 1:
        return
    table = np.arange(-(-count // block_size), dtype=np.int32)
    beside = np.array([len(table)], dtype=np.int32)
    tokens = torch.from_numpy(np.random.default_rng(1).integers(0, model.vocab_size, count + 1))
    rows = torch.arange(count)
    alone = model.forward(tokens[:count], build_plan([table], [0], [count], block_size), rows)
    plan = build_plan([table, beside], [0, 0], [count, 1], block_size)
    positions = torch.from_numpy(plan.positions.copy())  # attention goes on by the plan's own
    positions[-1] = last
    device = model.device
    logits = model.compute(tokens.to(device), positions.to(device), plan, rows.to(device))
    moved = float(distances(logits, alone).max())
    if not moved <= limit:
        raise ModelRefused(
            f"self-test: logits move by {moved:.2g} (allowed: {limit:.2g}) beside a sequence at position {last}: they"
            " depend on the lengths in the batch, so that blocks could not be shared: set a shorter --max-model-len"
        )
