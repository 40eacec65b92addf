"""StepGrants: the kvstore's answers to one message, in the order in which the engine acts on them.

A step is plan -> sync -> apply -> launch -> collect. This is what *apply* reads and nothing else: whatever the answer
to a message can ask of the engine is a field here, and the order of the fields is the contract (as ``Ready`` of
etcd/raft).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from quire_engine.sequences.sequence import Sequence
from quire_kv import NO_SPACE, Allocated, Shortage

AT_LIMIT, OVER_LIMIT, NO_ROOM = "no_space", "over_limit", "no_room"  # codes of errors; only the second says never
LIMIT = "limit"  # scope of a shortage that only the tenant's own requests can end


@dataclass(slots=True)
class StepGrants:
    """Answers of one message.

    ``KvSession.sync`` has applied what concerns tables alone when it returns: canonical blocks in place of duplicates
    first, because the seals were said first; then new entries of tables that grow; then new tables, and before them,
    once for all, a newer list of publications. The engine applies the rest (``Engine._apply``), top down:

    1. ``short_ahead``: the batch is not steady any more. First, because it is about plans to come alone.
    2. ``claimed``: these leave the queue and wait at the kvstore, before a preempted sequence could be queued by 7.
    3. ``priorities``: waiters lend their urgency to the sequences that compute for them. Before 4 and 7: it decides
       which sequence is preempted.
    4. ``admitted``: these join the batch and get what is left of the budget. Before 7: the newest is the first victim.
    5. ``unneeded``: these leave the batch or the queue; they hold nothing.
    6. ``rejected``: these end with an error, and what they held comes back. Before 7, which may need no victim then.
    7. ``starved``: each skips this step, and a victim gives its blocks up for it.
    8. ``backoff_ms``: when the kvstore may be asked about new sequences again. After all that may have queued some.
    9. ``copies``: launched before the step's work, on the same stream, those of sequences preempted in 7 too: they
       keep their blocks until this step is complete.

    What gives its blocks up in 6 or 7 may have nothing in flight: if either is not empty, all steps in flight are
    collected first, and sequences that end by that drop out of the plan.

    Attributes:
        short_ahead: there was no block for a sequence that will need one later.
        claimed: waiting sequences whose beginning another session's sequence is computing, and the last block of that
            (-1 for a pending publication).
        priorities: rows (sequence id, priority) of sequences that another one, this urgent, waits for.
        admitted: sequences that have a table now.
        unneeded: publications' sequences that another session computes or has computed.
        rejected: sequences, waiting or running, that would wait for ever; the error code, why, and how many blocks
            their tenant's limit lacks, if it is that.
        starved: running sequences that could not be extended, and whose shortage it is (an account; "": the pool's).
        backoff_ms: how long to ask nothing for waiting sequences, by account ("": for none of them).
        copies: rows (src, dst, slots) to be done before the step writes: copies, and scrubs (src -1).
    """

    short_ahead: bool = False
    claimed: list[tuple[Sequence, int]] = field(default_factory=list)
    priorities: list[tuple[int, int]] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    unneeded: list[Sequence] = field(default_factory=list)
    rejected: list[tuple[Sequence, str, str, int]] = field(default_factory=list)
    starved: list[tuple[Sequence, str]] = field(default_factory=list)
    backoff_ms: dict[str, int] = field(default_factory=dict)
    copies: list[tuple[int, int, int]] = field(default_factory=list)

    def short(self, sequence: Sequence, short: Shortage) -> None:
        """There is no block for a running sequence now, or never."""
        if short.retry_after_ms == 0:
            self.rejected.append((sequence, *_never(short)))
        else:
            self.starved.append((sequence, short.account))

    def deny(self, sequence: Sequence, answer: Allocated) -> None:
        """There is no table for a waiting sequence now, or never."""
        if end := _rejection(sequence, answer):
            self.rejected.append((sequence, *end))
            return
        before = self.backoff_ms.get(answer.account, 1)
        self.backoff_ms[answer.account] = max(before, answer.retry_after_ms)


def _rejection(sequence: Sequence, answer: Allocated) -> tuple[str, str, int] | None:
    """Code, reason and missing blocks of the limit if a sequence without space should not wait for it: it never fits,
    or should come back later.

    A sequence that has run already waits for its tenant's other requests to end: part of its answer is out.
    """
    if answer.code != NO_SPACE:
        return None
    if answer.retry_after_ms == 0:
        return _never(answer)
    if answer.scope == LIMIT and sequence.request.cached_tokens < 0:
        reason = f"tenant {answer.account} is at its limit: {answer.missing} blocks of cache are missing"
        return AT_LIMIT, f"{reason}; try again in {answer.retry_after_ms / 1000:g} s", 0
    return None


def _never(short: Allocated | Shortage) -> tuple[str, str, int]:
    """Code, reason and missing blocks of the limit for what does not fit, whatever else ends. Sent again the request is
    judged as things are then."""
    if short.account:
        return (
            OVER_LIMIT,
            f"the request needs {short.missing} blocks of cache more than tenant {short.account} can have",
            short.missing if short.scope == LIMIT else 0,
        )
    reason = f"{short.missing} blocks of cache are missing for the request, and so many can not become free"
    return NO_ROOM, f"{reason}: publications pin the others, or a process that may not be killed holds them", 0
