"""Suspects: attempts that may be what kills engines, and the one that is stopped for it.

When an engine dies, what it carried goes on elsewhere, and if one of these requests was what killed it, it kills the
next one. Which it was cannot be seen; but all others get tokens from an engine, as a rule, before it dies. So the rule
is: **a request is stopped when two engines in a row died before they gave it a token, unless another request of the
last one has seen as many die; then each of these goes on where no other such request is.** A token clears it, and an
engine that died before it said that it had the request counts for nothing: it was dying already. So a request that
kills all engines kills two of them, or three if others came with it, and none of the others is stopped.

One that gets some tokens of each engine before that dies is never suspected so. Therefore **it is stopped as well when
32 engines have died under one of its answers, whatever came in between.**
"""

from __future__ import annotations

from collections.abc import Iterable

from quire_services.gateway.generations import Attempt, Call

MOST_DEATHS = 2
MOST_IN_ALL = 32


def deaths(attempt: Attempt) -> int:
    """Engines that died before they gave its continuations a token, since the last they got."""
    return max((attempt.generation.deaths[index] for index in attempt.open), default=0)


def guilty(lost: Iterable[Attempt]) -> set[Call]:
    """The calls to stop, if any, of those whose engine has died; the death counts for all, and as one without a token
    for all that had nothing of it."""
    lost = [attempt for attempt in lost if attempt.open]
    suspects = [attempt for attempt in lost if attempt.received and not attempt.answered]
    for attempt in lost:
        for index in attempt.open:
            attempt.generation.engines_lost[index] += 1
            attempt.generation.deaths[index] += attempt.received and not attempt.answered
    most = max(map(deaths, suspects), default=0)
    calls = {attempt.generation.call for attempt in suspects if deaths(attempt) == most}
    stopped = calls if most >= MOST_DEATHS and len(calls) == 1 else set[Call]()
    return stopped | {one.generation.call for one in lost if _lost(one) >= MOST_IN_ALL}


def _lost(attempt: Attempt) -> int:
    return max(attempt.generation.engines_lost[index] for index in attempt.open)


def on_trial(attempts: Iterable[Attempt]) -> set[Call]:
    """Calls that have seen so many engines die that they must be the only such call where they are."""
    waiting = (attempt for attempt in attempts if not attempt.answered)
    return {attempt.generation.call for attempt in waiting if deaths(attempt) >= MOST_DEATHS}
