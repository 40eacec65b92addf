"""Ids of blocks, as arrays."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
NO_BLOCKS: Ids = np.empty(0, np.int64)
