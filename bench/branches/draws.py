"""Draws: every choice of a token that an engine of this process makes, and how near it was to another one.

A token is drawn by a uniform number that depends on nothing but the request's seed and the token's place. The
probabilities are laid on the line from 0 to 1, in the order of the vocabulary or of probability, and the number falls
into one token's interval. The distance to the nearer end of that interval is the draw's *margin*; that of a greedy
token is how far its logit is above the second. Both are computed here anew, in double precision, from the logits that
the sampler was given.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from quire_engine.model.sampler import Choice, choose_tokens, uniform
from quire_engine.model.token_masks import TokenMasks
from quire_engine.sampling.adjust import adjust
from quire_engine.sequences.sample_row import SampleRow

Place = tuple[int, int, int]  # seed, continuation, position
Numbers = np.ndarray[Any, np.dtype[np.float64]]


@dataclass(frozen=True, slots=True)
class Draw:
    """The token, its margin, and what that was measured by: the interval's ends, or the two best logits' distance."""

    token: int
    margin: float
    ends: tuple[float, float]


@contextmanager
def watched(seen: dict[Place, Draw]) -> Iterator[None]:
    """Every draw of engines in this process goes into ``seen``, too."""

    def choose(
        logits: torch.Tensor,
        rows: Sequence[SampleRow],
        newest: torch.Tensor | None = None,
        masks: TokenMasks | None = None,
    ) -> Choice:
        own = logits.clone()
        masked = masks is not None and bool(masks.lines)
        given = adjust(masks.apply(own) if masks and masked else own, rows, newest, masked).double().numpy()
        for row, line in zip(rows, given, strict=True):
            seen[row.seed, row.index, row.position] = _draw(line, row)
        return choose_tokens(logits, rows, newest, masks)

    with patch("quire_engine.model.runner.choose_tokens", choose):
        yield


def _draw(logits: Numbers, row: SampleRow) -> Draw:
    if row.temperature == 0:
        second, best = np.sort(logits)[-2:]
        return Draw(int(np.argmax(logits)), float(best - second), (float(best - second), 0.0))
    chances = np.exp((logits - logits.max()) / row.temperature)
    chances /= chances.sum()
    order = np.argsort(-chances, kind="stable") if row.filtered else np.arange(len(chances))
    kept = _kept(chances[order], row) if row.filtered else chances[order]
    ends = np.cumsum(kept / kept.sum())
    number = uniform(row.seed, row.index, row.position)
    place = min(int(np.searchsorted(ends, number, side="right")), int(np.flatnonzero(kept)[-1]))
    low = float(ends[place - 1]) if place else 0.0
    high = float(ends[place])
    # The ends of the line are no boundaries: nothing lies beyond them.
    near = [abs(number - end) for end in (low, high) if 0 < end < 1 - 1e-12]
    return Draw(int(order[place]), min(near, default=1.0), (low, high))


def _kept(chances: Numbers, row: SampleRow) -> Numbers:
    """Probabilities, likeliest first, without what min-p, top-k and top-p leave out."""
    rank = np.arange(len(chances))
    kept = np.where((chances >= row.min_p * chances[0]) & (rank < (row.top_k or len(chances))), chances, 0.0)
    kept = kept / kept.sum()
    before = np.cumsum(kept) - kept
    return np.where((before < row.top_p) | (rank == 0), kept, 0.0)
