"""Attach: the arena of a session as a tensor, without a copy."""

from __future__ import annotations

import torch

from quire_proto.client import KVClient

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def arena_of(client: KVClient) -> torch.Tensor:
    """The mapped arena as a tensor of ``client.layout.shape`` (layer, kv, head, block, slot, d)."""
    layout = client.layout
    flat = torch.frombuffer(client.map(), dtype=torch.uint8).view(DTYPES[layout.dtype])
    return flat.view(layout.shape(client.num_blocks))
