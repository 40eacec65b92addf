"""Moving small tensors to a device without stopping its stream.

A copy from pageable memory, and every copy that is not ``non_blocking``, waits for all work queued before it: one
forgotten ``.to(device)`` costs the whole overlap of planning and computing. Pinned memory avoids that; torch keeps a
pinned buffer from reuse until the copy has left it.
"""

from __future__ import annotations

import torch


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``tensor`` on ``device``: itself if it is there, else a copy queued on the current stream."""
    if device.type != "cuda" or tensor.device == device:
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)
