"""Retire list: references are given up only after the step that may name their blocks has completed.

Work already launched reads and writes the blocks in its tables. The kvstore may hand a block to another sequence the
moment its refcount is 0, so a release sent while that work runs would let it touch another sequence's memory. Hence
every release, copy acknowledgement and swap is recorded with the number of the last step whose work names the
blocks, and becomes *due* when ``complete`` was called for that step (seen on the host, not merely launched).
Steps complete in order, as work on one stream does.
"""

from __future__ import annotations

from collections.abc import Container

Swap = tuple[int, int, int]


class RetireList:
    """What this session will give up, by step.

    Attributes:
        completed: number of the last completed step (-1: none).
    """

    def __init__(self) -> None:
        self.completed = -1
        self._releases: list[tuple[int, int]] = []
        self._copies: list[tuple[int, int]] = []
        self._swaps: list[tuple[int, Swap]] = []

    def release(self, step: int, sequence: int) -> None:
        """Free ``sequence`` once ``step`` (the last that names its blocks) completed."""
        self._releases.append((step, sequence))

    def copy_done(self, step: int, copy_id: int) -> None:
        """Acknowledge a copy that ran in ``step``: its source may go."""
        self._copies.append((step, copy_id))

    def swap(self, step: int, sequence: int, index: int, block: int) -> None:
        """Put ``block`` into the table at ``index`` (the present block: decline); ``step`` is the last that still
        uses the old one."""
        self._swaps.append((step, (sequence, index, block)))

    def complete(self, step: int) -> None:
        """Step ``step``, and with it all before, has completed."""
        assert step >= self.completed, "steps complete in order"
        self.completed = step

    def waiting(self) -> int:
        """Entries recorded and not yet taken, due or not."""
        return len(self._releases) + len(self._copies) + len(self._swaps)

    def drain_releases(self, held_back: Container[int] = ()) -> list[int]:
        """Due releases, in the order recorded, without the sequences ``held_back`` (they stay for the next time)."""
        due = [e for e in self._releases if e[0] <= self.completed and e[1] not in held_back]
        self._releases = [e for e in self._releases if e[0] > self.completed or e[1] in held_back]
        return [sequence for _, sequence in due]

    def drain_copies(self) -> list[int]:
        """Due copy acknowledgements."""
        due = [copy_id for step, copy_id in self._copies if step <= self.completed]
        self._copies = [entry for entry in self._copies if entry[0] > self.completed]
        return due

    def drain_swaps(self, released: Container[int] = ()) -> list[Swap]:
        """Due swaps; those of ``released`` sequences are dropped, for their pins go with the sequence."""
        due = [swap for step, swap in self._swaps if step <= self.completed and swap[0] not in released]
        self._swaps = [entry for entry in self._swaps if entry[0] > self.completed]
        return due
