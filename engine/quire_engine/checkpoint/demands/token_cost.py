"""What a token costs in the pool, in words for the person who starts a stack."""

from __future__ import annotations

from typing import Any

from quire_engine.checkpoint.architecture import latent_width
from quire_kv import DTYPE_BYTES, Layout


def token_cost(config: Any, layout: Layout) -> str:
    """Bytes of keys and values of a token; where the model's text layers make them of latents, those beside them."""
    said = f"{layout.block_bytes // layout.block_size:,} bytes of keys and values"
    width = latent_width(config)
    if not width:
        return said
    latents = width * layout.num_layers * DTYPE_BYTES[layout.dtype]
    return f"{said} (MLA: kept for each head; its latents would be {latents:,} bytes)"
