"""MaskRows: the tokens that come next in many grammars, a row of bits for each.

One call fills all rows of a step without the interpreter's lock, in ten microseconds a row or so. Bit t of a row,
counted from the lowest of its first byte, is set if token t may come next.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from llguidance import LLExecutor

from .grammar import GrammarState

WORD = 32  # bits
Row = tuple[GrammarState, tuple[int, ...]]  # where it stands, and tokens that it may not take beside that


def words_of(vocabulary: int) -> int:
    """Words of a row: one place more than there are tokens, at least."""
    return vocabulary // WORD + 1


class MaskRows:
    """Fills rows.

    Args:
        vocabulary: tokens of the model.
        threads: that share the rows of a step.
    """

    def __init__(self, vocabulary: int, threads: int = 1) -> None:
        self._executor = LLExecutor(threads)
        self._last = (1 << vocabulary % WORD) - 1  # tokens of the last word

    def fill(self, rows: Sequence[Row], into: npt.NDArray[np.int32]) -> None:
        """Write the mask of row i of ``rows`` to row i of ``into`` [at least as many, words].

        Where what a row may not take is all that its grammar allows, the grammar wins: something must come. Where
        the grammar allows nothing, that is an error of its state, and the row some token that ends it.
        """
        assert len(rows) <= len(into), "a row for each"
        assert into.flags.c_contiguous, "rows one behind the other"
        matchers = [(state.matcher, place) for place, (state, _) in enumerate(rows)]
        self._executor.unsafe_compute_mask_ptr(matchers, into.ctypes.data, into.shape[1] * 4, len(into))
        filled = into[: len(rows)].view(np.uint32)
        live = filled[:, :-1].any(axis=1) | ((filled[:, -1] & np.uint32(self._last)) != 0)
        for place in [] if live.all() else np.flatnonzero(~live).tolist():
            rows[place][0].dead_end()
            filled[place, 0] |= np.uint32(1)
        for place, (_, banned) in enumerate(rows):
            if banned:
                _clear(filled[place], banned)


def _clear(row: npt.NDArray[np.uint32], banned: tuple[int, ...]) -> None:
    before = row.copy()
    for token in banned:
        if token < len(row) * WORD:
            row[token // WORD] &= ~np.uint32(1 << (token % WORD))
    if not row.any():
        row[:] = before
