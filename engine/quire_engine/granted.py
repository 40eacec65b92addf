"""Granted: the kvstore's answers to one message, sorted by what the engine does about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from quire_proto.messages import NO_SPACE, Allocated

from .request import Sequence

AT_LIMIT, OVER_LIMIT = "no_space", "over_limit"  # codes of errors: come back later, or never
LIMIT = "limit"  # scope of a shortage that only the tenant's own requests can end


@dataclass(slots=True)
class Granted:
    """Answers of one message.

    Attributes:
        copies: rows (src, dst, slots) to be done before the step writes: copies, and scrubs (src -1).
        admitted: sequences that now have a table.
        refused: running sequences that could not be extended, and whose shortage it is (an account, "" everybody's).
        short_ahead: there was no block for a sequence that will need one later.
        unneeded: publications' sequences that somebody else computes or has computed.
        hopeless: waiting sequences that are not to wait any longer, the error code, and why.
        retry_after_ms: how long to leave waiting sequences alone, by account ("": all of them).
        claimed: sequences whose beginning another session's sequence is computing, and the last block of that (-1 for
            a pending publication).
        urgent: rows (sequence id, priority) of sequences that somebody so urgent waits for.
    """

    copies: list[tuple[int, int, int]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    refused: list[tuple[Sequence, str]] = field(default_factory=list)
    short_ahead: bool = False
    unneeded: list[Sequence] = field(default_factory=list)
    hopeless: list[tuple[Sequence, str, str]] = field(default_factory=list)
    retry_after_ms: dict[str, int] = field(default_factory=dict)
    claimed: list[tuple[Sequence, int]] = field(default_factory=list)
    urgent: list[tuple[int, int]] = field(default_factory=list)

    def deny(self, sequence: Sequence, answer: Allocated) -> None:
        """There is no table for a waiting sequence now, or never."""
        if end := _hopeless(sequence, answer):
            self.hopeless.append((sequence, *end))
            return
        before = self.retry_after_ms.get(answer.account, 1)
        self.retry_after_ms[answer.account] = max(before, answer.retry_after_ms)


def _hopeless(sequence: Sequence, answer: Allocated) -> tuple[str, str] | None:
    """Code and reason if a sequence without space should not wait for it: it never fits, or should come back later.

    A sequence that has run already waits for its tenant's other requests to end: part of its answer is out.
    """
    if answer.code != NO_SPACE:
        return None
    whose = f"tenant {answer.account}" if answer.account else "anybody"
    if answer.retry_after_ms == 0:
        return OVER_LIMIT, f"the request needs {answer.missing} blocks of cache more than {whose} can have"
    if answer.scope == LIMIT and sequence.request.cached_tokens < 0:
        reason = f"{whose} is at its limit: {answer.missing} blocks of cache are missing"
        return AT_LIMIT, f"{reason}; try again in {answer.retry_after_ms / 1000:g} s"
    return None
