"""StepGrants: the kvstore's answers to one message, sorted by what the engine does about them."""

from __future__ import annotations

from dataclasses import dataclass, field

from quire_engine.sequences.sequence import Sequence
from quire_proto.messages import NO_SPACE, Allocated, Shortage

AT_LIMIT, OVER_LIMIT, NO_ROOM = "no_space", "over_limit", "no_room"  # codes of errors; only the second says never
LIMIT = "limit"  # scope of a shortage that only the tenant's own requests can end


@dataclass(slots=True)
class StepGrants:
    """Answers of one message.

    Attributes:
        copies: rows (src, dst, slots) to be done before the step writes: copies, and scrubs (src -1).
        admitted: sequences that now have a table.
        refused: running sequences that could not be extended, and whose shortage it is (an account, "" everybody's).
        short_ahead: there was no block for a sequence that will need one later.
        unneeded: publications' sequences that somebody else computes or has computed.
        hopeless: sequences, waiting or running, that would wait for ever, the error code, and why.
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

    def refuse(self, sequence: Sequence, short: Shortage) -> None:
        """There is no block for a running sequence now, or never."""
        if short.retry_after_ms == 0:
            self.hopeless.append((sequence, *_never(short)))
        else:
            self.refused.append((sequence, short.account))

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
    if answer.retry_after_ms == 0:
        return _never(answer)
    if answer.scope == LIMIT and sequence.request.cached_tokens < 0:
        reason = f"tenant {answer.account} is at its limit: {answer.missing} blocks of cache are missing"
        return AT_LIMIT, f"{reason}; try again in {answer.retry_after_ms / 1000:g} s"
    return None


def _never(short: Allocated | Shortage) -> tuple[str, str]:
    """Code and reason for what does not fit, whoever else ends. Sent again the request is judged as things are then."""
    if short.account:
        return (
            OVER_LIMIT,
            f"the request needs {short.missing} blocks of cache more than tenant {short.account} can have",
        )
    reason = f"{short.missing} blocks of cache are missing for the request, and so many can not become free"
    return NO_ROOM, f"{reason}: publications pin the others, or a process that may not be killed holds them"
