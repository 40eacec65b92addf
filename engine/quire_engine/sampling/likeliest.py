"""Likeliest: the tokens of the largest log-probabilities; of equal ones the lowest id comes first.

``topk`` promises no order of equal values, and which of them it keeps depends on how many are wanted: another row's
wish would change this one's answer. So it is given numbers that are all different: a float's bits, ordered, above the
id's.
"""

from __future__ import annotations

import torch

_MAGNITUDE = 0x7FFFFFFF  # the bits of a float32 that are not its sign


def likeliest(logprobs: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and values of the ``count`` largest of each row of ``logprobs`` [rows, vocabulary] float32, largest first."""
    bits = (logprobs + 0.0).view(torch.int32)  # -0 is 0
    ordered = torch.where(bits < 0, bits ^ _MAGNITUDE, bits).long()
    ids = torch.arange(logprobs.shape[1], device=logprobs.device)
    found = ((ordered << 32) - ids).topk(count).indices
    return found, logprobs.gather(1, found)
