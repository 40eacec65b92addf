"""Places: (row, token) pairs of a step's logits, as indices into all of them in a line.

What rows ask for is short beside a vocabulary, so only the logits concerned are touched. The pairs of all rows are put
together on the host, by arrays, and reach the device in one copy.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from quire_engine.transfer import to_device


def places(lines: Sequence[int], tokens: Sequence[npt.ArrayLike], logits: torch.Tensor) -> torch.Tensor:
    """Indices into ``logits.view(-1)``: those of ``tokens[i]`` in row ``lines[i]``, one after another."""
    arrays = [np.asarray(ids, np.int64) for ids in tokens]
    starts = np.repeat(np.array(lines, np.int64) * logits.shape[1], [len(ids) for ids in arrays])
    return to_device(torch.from_numpy(starts + np.concatenate(arrays)), logits.device)
