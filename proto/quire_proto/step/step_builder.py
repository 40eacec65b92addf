"""Building a ``Step`` and reading its reply: at most one message a scheduler step.

The sections of a step are applied in a fixed order with the releases first. The builder therefore holds a release
back while the same message still says something about that sequence (its last seals, a fork off it), and merges
what belongs together: the highest fill mark and capacity of a sequence, seals of adjacent blocks.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import chain as concat

from quire_proto.messages import Allocate, Allocated, Fork, Forked, Seal, Sealed, Shortage, Step, Stepped
from quire_proto.wire.digests import DIGEST_BYTES
from quire_proto.wire.errors import Internal
from quire_proto.wire.u32 import pack_u32, unpack_rows, unpack_u32

from .retire import RetireList, Swap

SEAL_BLOCKS = 512  # an item is executed in one go: a longer one would hold up other engines


class StepBuilder:
    """Collects what the next step says; ``build`` empties it."""

    def __init__(self, retire: RetireList) -> None:
        self._retire = retire
        self._clear()

    def _clear(self) -> None:
        self._fills: dict[int, int] = {}
        self._seals: list[Seal] = []
        self._completed: list[int] = []
        self._completed_digests: list[bytes] = []
        self._left_behind: dict[int, int] = {}
        self._forks: list[Fork] = []
        self._extends: dict[int, int] = {}
        self._allocates: list[Allocate] = []

    def fill(self, sequence: int, tokens: int) -> None:
        """The first ``tokens`` tokens of ``sequence`` are written (the step that wrote them has completed)."""
        self._fills[sequence] = max(tokens, self._fills.get(sequence, 0))

    def seal(self, sequence: int, first: int, digests: bytes, tokens: bytes = b"") -> None:
        """Blocks from table index ``first`` on are full and final; ``digests`` are 32 bytes each.

        ``tokens`` of these blocks, packed, if the kvstore wants them: then in all seals of the client.
        """
        last = self._seals[-1] if self._seals else None
        if last and last.sequence == sequence and last.first + len(last.digests) // DIGEST_BYTES == first:
            self._seals.pop()
            first, digests, tokens = last.first, last.digests + digests, last.tokens + tokens
        blocks = len(digests) // DIGEST_BYTES
        each = len(tokens) // max(blocks, 1)
        for at in range(0, blocks, SEAL_BLOCKS):
            end = at + SEAL_BLOCKS
            names = digests[at * DIGEST_BYTES : end * DIGEST_BYTES]
            self._seals.append(Seal(sequence, first + at, names, tokens[at * each : end * each]))

    def complete(self, sequence: int, index: int, tokens: int, digest: bytes) -> None:
        """Block ``index`` is full and final and ``tokens`` tokens are written: a fill and a seal of one block."""
        self._completed += (sequence, index, tokens)
        self._completed_digests.append(digest)

    def leave_behind(self, sequence: int, blocks: int) -> None:
        """No layer reads the first ``blocks`` blocks of ``sequence`` any more, in steps that are in flight neither."""
        self._left_behind[sequence] = max(blocks, self._left_behind.get(sequence, 0))

    def fork(self, parent: int, children: Iterable[int], tokens: int) -> None:
        """``children`` share the first ``tokens`` tokens of ``parent``."""
        self._forks.append(Fork(parent, pack_u32(children), tokens))

    def extend(self, sequence: int, tokens: int) -> None:
        """Ask for capacity for ``tokens`` tokens in all."""
        self._extends[sequence] = max(tokens, self._extends.get(sequence, 0))

    def allocate(self, request: Allocate) -> None:
        """Ask for a table of a new sequence."""
        self._allocates.append(request)

    def build(self) -> Step | None:
        """The message with everything collected and every due release, or None if there is nothing to say."""
        mentioned = {
            *self._fills,
            *self._extends,
            *self._completed[::3],
            *self._left_behind,
            *(s.sequence for s in self._seals),
        }
        mentioned.update(*(unpack_u32(f.children) for f in self._forks), (f.parent for f in self._forks))
        releases = self._retire.drain_releases(mentioned)
        step = Step(
            releases=pack_u32(releases),
            copies_done=pack_u32(self._retire.drain_copies()),
            swaps=pack_u32(concat.from_iterable(self._retire.drain_swaps(set(releases)))),
            fills=pack_u32(concat.from_iterable(self._fills.items())),
            seals=tuple(self._seals),
            completed=pack_u32(self._completed),
            completed_digests=b"".join(self._completed_digests),
            left_behind=pack_u32(concat.from_iterable(self._left_behind.items())),
            forks=tuple(self._forks),
            extends=pack_u32(concat.from_iterable(self._extends.items())),
            allocates=tuple(self._allocates),
        )
        self._clear()
        return None if step == Step() else step


@dataclass(frozen=True, slots=True)
class Results:
    """A step's results by what they concern. Codes are the item codes of ``messages``.

    What a decoding batch says and hears, ``completed`` and ``extends``, is left as it is in the reply, row by row.
    """

    releases: dict[int, int] = field(default_factory=dict)
    copies_done: dict[int, int] = field(default_factory=dict)
    swaps: dict[Swap, int] = field(default_factory=dict)
    fills: dict[int, int] = field(default_factory=dict)
    seals: list[tuple[Seal, Sealed]] = field(default_factory=list)
    left_behind: dict[int, int] = field(default_factory=dict)
    forks: list[tuple[Fork, Forked]] = field(default_factory=list)
    shortages: dict[int, Shortage] = field(default_factory=dict)
    allocates: dict[int, Allocated] = field(default_factory=dict)
    priorities: list[tuple[int, int]] = field(default_factory=list)


def results(step: Step, reply: Stepped) -> Results:
    """Pair a step with its reply. Raises Internal if the reply has not exactly one result an item."""
    try:
        if (len(reply.completed), len(reply.extends)) != (len(step.completed) // 12, len(step.extends) // 8):
            raise ValueError("completed or extends")
        return Results(
            releases=dict(zip(unpack_u32(step.releases), reply.releases, strict=True)),
            copies_done=dict(zip(unpack_u32(step.copies_done), reply.copies_done, strict=True)),
            swaps={(r[0], r[1], r[2]): c for r, c in zip(unpack_rows(step.swaps, 3), reply.swaps, strict=True)},
            fills={r[0]: c for r, c in zip(unpack_rows(step.fills, 2), reply.fills, strict=True)},
            seals=list(zip(step.seals, reply.seals, strict=True)),
            left_behind={r[0]: c for r, c in zip(unpack_rows(step.left_behind, 2), reply.left_behind, strict=True)},
            forks=list(zip(step.forks, reply.forks, strict=True)),
            shortages={short.sequence: short for short in reply.shortages},
            allocates={a.sequence: r for a, r in zip(step.allocates, reply.allocates, strict=True)},
            priorities=[(row[0], row[1]) for row in unpack_rows(reply.priorities, 2)],
        )
    except ValueError as exc:
        raise Internal("INTERNAL", f"the reply to a step has not one result an item: {exc}") from None
