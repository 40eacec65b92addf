"""Suspects: attempts that may be what kills engines, and the one that is stopped for it.

When an engine dies, what it carried goes on elsewhere, and if one of these requests was what killed it, it kills the
next one. Which it was cannot be seen; but all others get tokens from an engine, as a rule, before it dies. So the rule
is: **a request is stopped when two engines in a row died before they gave it a token, unless another request of the
last one has seen as many die; then each of these goes on where no other such request is.** A token clears it. So a
request that kills all engines kills two of them, or three if others came with it, and none of the others is stopped.
"""

from __future__ import annotations

from collections.abc import Iterable

from quire_services.gateway.generations import Attempt, Call

MOST_DEATHS = 2


def deaths(attempt: Attempt) -> int:
    """Engines that died before they gave its continuations a token, since the last they got."""
    return max((attempt.generation.deaths[index] for index in attempt.open), default=0)


def guilty(lost: Iterable[Attempt]) -> Call | None:
    """The call to stop, if one is, of those whose engine has died; the death counts for all that had nothing of it."""
    suspects = [attempt for attempt in lost if attempt.open and not attempt.answered]
    for attempt in suspects:
        for index in attempt.open:
            attempt.generation.deaths[index] += 1
    most = max(map(deaths, suspects), default=0)
    calls = {attempt.generation.call for attempt in suspects if deaths(attempt) == most}
    return calls.pop() if most >= MOST_DEATHS and len(calls) == 1 else None


def on_trial(attempts: Iterable[Attempt]) -> set[Call]:
    """Calls that have seen so many engines die that they must be the only such call where they are."""
    waiting = (attempt for attempt in attempts if not attempt.answered)
    return {attempt.generation.call for attempt in waiting if deaths(attempt) >= MOST_DEATHS}
