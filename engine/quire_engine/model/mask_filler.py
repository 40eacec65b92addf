"""MaskFiller: the masks of a step, made while the step computes.

Owns the one buffer that all steps' masks are written to. It is free when no step is in flight but the one that the
masks are for. Where nothing runs beside the host (one step in flight), masks are begun on a thread before the step is
computed; where a device computes by itself, they are made when it has been given the step.
"""

from __future__ import annotations

import os
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import torch

from quire_engine.grammar.grammar import GrammarState
from quire_engine.grammar.mask_rows import MaskRows, Row, words_of
from quire_engine.sequences.draft import Draft
from quire_engine.sequences.sequence import Sequence

from .token_masks import TokenMasks


@dataclass(frozen=True, slots=True)
class MaskedRow:
    """A sequence that is held to a grammar, the lines of logits that it draws from, and what it may not draw beside.

    Its continuations stand at one place. With a draft, each line is a place behind the one before; of ``banned`` there
    is an entry for each place.
    """

    sequence: Sequence
    lines: range
    banned: list[tuple[int, ...]]
    draft: Draft | None = None

    def states(self, state: GrammarState) -> list[GrammarState]:
        """The places, from the one where the sequence stands; those behind a token that did not come are none."""
        found = [state]
        if self.draft is not None and self.draft.holds(self.sequence.tokens):
            for token in self.draft.tokens:
                found.append(found[-1].clone())
                found[-1].accept((token,))
        return found


class MaskFiller:
    """Makes masks for one runner.

    Args:
        vocabulary: number of logits.
        device: where they are.
    """

    def __init__(self, vocabulary: int, device: torch.device) -> None:
        self._words = words_of(vocabulary)
        self._pinned = device.type == "cuda"
        self._rows = MaskRows(vocabulary, min(8, (os.cpu_count() or 2) // 2) if self._pinned else 1)
        self._buffer = torch.empty((0, self._words), dtype=torch.int32)
        self._thread = ThreadPoolExecutor(1, "masks")

    def begin(self, rows: list[MaskedRow]) -> Future[TokenMasks]:
        """:meth:`fill` on a thread."""
        return self._thread.submit(self.fill, rows)

    def fill(self, rows: list[MaskedRow]) -> TokenMasks:
        """Masks for sequences that stand where the line will be drawn. What has ended meanwhile gets none."""
        wanted, lines, places = list[Row](), list[int](), list[int]()
        for row in rows:
            if row.sequence.ended or row.sequence.grammar is None:
                continue
            states, first = row.states(row.sequence.grammar), len(wanted)
            own = row.lines[: len(states)] if row.draft else row.lines
            lines += own
            places += range(first, first + len(states)) if row.draft else [first] * len(own)
            wanted += zip(states, row.banned, strict=False)
        if len(wanted) > len(self._buffer):
            size = 1 << (len(wanted) - 1).bit_length()
            self._buffer = torch.empty((size, self._words), dtype=torch.int32, pin_memory=self._pinned)
        words = self._buffer[: len(wanted)]
        if wanted:
            self._rows.fill(wanted, words.numpy())
        return TokenMasks(lines, places, words)

    def close(self) -> None:
        """Begin nothing more."""
        self._thread.shutdown(wait=False, cancel_futures=True)
