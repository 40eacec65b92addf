"""LeftBehind: blocks that all layers' windows have left behind are given back while their sequence lives.

A token at position p sees, through a window of w, the keys from p + 1 - w on. Steps in flight compute nothing before
``computed``, which counts only what was seen complete, and nothing later does: so no key before ``computed + 1 - w`` is
read any more, by whatever is launched already or will be. What lies wholly before that goes, as soon as something is
said to the kvstore anyway.

Never given back: what is not sealed, and the last sealed block, as the next seal needs a parent; anything of a
publication's prefill, whose table is to be the publication's; and for one message what that message forks: the children
see what the parent saw at the fork, and it may have moved on by now.
"""

from __future__ import annotations

from collections.abc import Iterable

from quire_engine.sequences.sequence import Sequence
from quire_kv import StepBuilder


class LeftBehind:
    """What the session's sequences have left behind.

    Args:
        window: the widest of all layers; None if a layer has none: then nothing is given back.
    """

    def __init__(self, window: int | None, block_size: int, builder: StepBuilder) -> None:
        self._window, self._block_size, self._builder = window, block_size, builder
        self._kept: set[int] = set()

    def keep(self, sequences: Iterable[Sequence]) -> None:
        """The next message leaves these as they are."""
        self._kept.update(sequence.id for sequence in sequences)

    def say(self, sequences: Iterable[Sequence]) -> None:
        """Put into the next message what they have left behind, behind their seals."""
        kept, self._kept = self._kept, set()
        if self._window is None:
            return
        for sequence in sequences:
            past = (sequence.computed + 1 - self._window) // self._block_size
            blocks = min(past, sequence.sealed - 1)
            if blocks > sequence.behind and sequence.id not in kept and sequence.request.tenant:
                self._builder.leave_behind(sequence.id, blocks)
                sequence.leave_behind(blocks)
