"""Ids of blocks: arrays of them, and how they are written into replies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
NO_BLOCKS: Ids = np.empty(0, np.int64)


def packed(blocks: Ids) -> bytes:
    """Block ids as little-endian u32."""
    return blocks.astype("<u4").tobytes()
