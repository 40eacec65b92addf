"""Bugs planted into what windows give back, as ``planted`` does it."""

from __future__ import annotations

from typing import Any

import pytest

from quire_kvstore.ops import fork, left_behind
from quire_kvstore.sharing.prefix_index import PrefixIndex
from quire_kvstore.state import State
from tests.proofs.planted import Patch


def one_block_too_early(patch: pytest.MonkeyPatch) -> None:
    """A block more than was named is given back, where there is one."""
    real = left_behind._leave

    def leave(state: State, sequence: Any, blocks: int) -> int:
        return real(state, sequence, min(blocks + 1, sequence.fill // state.block_size))

    patch.setattr(left_behind, "_leave", leave)


def child_holds_the_hole(patch: pytest.MonkeyPatch) -> None:
    """A fork does not know that its table has a hole."""
    real = fork._child

    def child(state: State, parent: Any, table: Any, pins: Any, tokens: int) -> Any:
        made = real(state, parent, table, pins, tokens)
        made.behind = 0
        return made

    patch.setattr(fork, "_child", child)


def name_without_its_parent(patch: pytest.MonkeyPatch) -> None:
    """An evicted block takes no name with it but its own: what a live sequence holds below it is still a hit."""
    real = PrefixIndex.remove

    def remove(self: PrefixIndex, blocks: Any) -> list[int]:
        for block in blocks:
            digest = self._by_block[block].digest
            self._child.pop(digest, None)
            self._siblings.pop(digest, None)
        return real(self, blocks)

    patch.setattr(PrefixIndex, "remove", remove)


WINDOW_BUGS: list[Patch] = [one_block_too_early, child_holds_the_hole, name_without_its_parent]
