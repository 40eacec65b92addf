"""TokenMasks: the tokens that some rows of a step may take, a bit for each, and what that does to their logits.

Bits go to the device as they are, a thirty-second of the logits' size, and are spread out there. Rows without a mask
keep their logits bit for bit, and a step without any row that has one does nothing of this.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from quire_engine.transfer import to_device


@dataclass(frozen=True, slots=True)
class TokenMasks:
    """Masks of a step.

    Attributes:
        lines: rows of the logits that have one.
        places: the mask of each of them; branches of one prompt have the same.
        words: [masks, words] int32, on the host; bit t of a row, from the lowest of its first byte, allows token t.
    """

    lines: Sequence[int]
    places: Sequence[int]
    words: torch.Tensor

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        """``logits`` [rows, vocabulary] with minus infinity where a mask forbids; the argument stays as it is."""
        lines = to_device(torch.tensor(self.lines), logits.device)
        forbidden = _forbidden(self._words_on(logits.device), logits.shape[1])
        if list(self.places) != list(range(len(self.words))):
            forbidden = forbidden.index_select(0, to_device(torch.tensor(self.places), logits.device))
        if len(self.lines) == len(logits):  # lines rise, so these are all, in their order
            return logits.masked_fill(forbidden, -torch.inf)
        masked = logits.clone()
        masked[lines] = logits.index_select(0, lines).masked_fill_(forbidden, -torch.inf)
        return masked

    def _words_on(self, device: torch.device) -> torch.Tensor:
        if device.type == "cuda" and self.words.is_pinned():
            return self.words.to(device, non_blocking=True)
        return to_device(self.words, device)


def _forbidden(words: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """[masks, vocabulary] bool: the tokens whose bits are not set."""
    if words.device.type == "cpu":  # numpy spreads bits several times faster than shifts do
        spread = np.unpackbits(np.invert(words.numpy()).view(np.uint8), axis=1, count=vocabulary, bitorder="little")
        return torch.from_numpy(spread.view(np.bool_))
    return _spread(words, vocabulary) == 0


def _spread(words: torch.Tensor, vocabulary: int) -> torch.Tensor:
    """[masks, vocabulary] int32, 0 or 1: the bits of ``words``, on any device."""
    places = torch.arange(32, dtype=torch.int32, device=words.device)
    return ((words.unsqueeze(-1) >> places) & 1).flatten(1)[:, :vocabulary]
