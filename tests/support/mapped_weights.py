"""What a model computes with: its logits under its own attention, and the memory that a tensor of it lies in."""

from __future__ import annotations

from pathlib import Path

import torch

from quire_engine.attention.hook import ATTENTION_NAME
from quire_engine.model.model import Model


def own_logits(model: Model, tokens: int) -> torch.Tensor:
    """Of so many tokens, under the model's own attention."""
    model.module.set_attn_implementation("eager")
    ids = torch.arange(1, tokens + 1).remainder(model.vocab_size).unsqueeze(0)
    with torch.inference_mode():
        found: torch.Tensor = model.module(input_ids=ids, use_cache=False).logits
    model.module.set_attn_implementation(ATTENTION_NAME)
    return found


def memory_of(tensor: torch.Tensor) -> tuple[str, str]:
    """Rights of the memory that a tensor lies in, and what that is, as the kernel says them."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if start <= tensor.data_ptr() < end:
            return line.split()[1], line.split(maxsplit=5)[-1]
    raise AssertionError("memory of nothing")
