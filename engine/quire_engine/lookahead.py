"""Looking ahead: what a batch of decoding sequences will need soon, and for how many steps nothing at all.

A sequence needs a block once in ``block_size`` steps. Asked for one by one that is a message nearly every step; so
whenever one sequence must have a block, those that will need theirs within the *horizon* get it in the same message.
What they hold early is waste: half a horizon on the mean. The horizon is therefore at most one part in ``SHARE`` of
the batch's mean length, which bounds that waste by half of it, and never longer than a block.
"""

from __future__ import annotations

from dataclasses import dataclass

from .request import Sequence

SHARE = 32


@dataclass(frozen=True, slots=True)
class Outlook:
    """What comes after a step in which each sequence computes one token.

    Attributes:
        ahead: sequences, and the capacity in tokens that they will want within the horizon.
        steps: in so many steps after this one each of them computes one token again and needs nothing, unless
            something happens: one ends, one comes, or a block is refused.
    """

    ahead: list[tuple[Sequence, int]]
    steps: int


def look_ahead(batch: list[Sequence], block_size: int, asks: bool) -> Outlook:
    """The outlook of a step that computes one token of each sequence of ``batch``.

    Args:
        asks: whether this step asks for blocks anyway; else nothing is asked for ahead.
    """
    ends = [sequence.computed + sequence.in_flight + 1 for sequence in batch]
    horizon = min(block_size, sum(ends) // (SHARE * len(ends))) if asks else 0
    ahead, steps = [], 1 << 30
    for sequence, end in zip(batch, ends, strict=True):
        room = len(sequence.table) * block_size - end
        if room < 0:
            room %= block_size  # this step asks for a block
        left = sequence.tokens_left - 1  # after the token that this step draws
        if not sequence.single:
            left = 0  # with that token it forks
        if room < horizon and room < left:
            ahead.append((sequence, end + room + 1))
            room += block_size
        steps = min(steps, room, left)
    return Outlook(ahead, max(0, steps))
