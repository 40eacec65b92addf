"""Truncation: the oldest turns of a conversation are left out until it fits.

What stays begins with what a user says, behind the system messages at the beginning: half a turn would be no
conversation. Length is looked for by halves: some ten times for thousands of turns.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Sequence

from quire_services.gateway.openai.bodies import Message

_LEADS = ("system", "developer")


def kept_places(messages: Sequence[Message], fits: Callable[[list[Message]], bool]) -> list[int]:
    """Places of the messages that stay: all if these fit, else as many turns as do, and the last one in any case."""
    everything = list(range(len(messages)))
    lead = next((place for place in everything if messages[place].role not in _LEADS), len(messages))
    starts = [place for place in everything[lead + 1 :] if messages[place].role == "user"]

    def from_turn(begin: int) -> list[int]:
        return [*everything[:lead], *everything[begin:]]

    if not starts or fits(list(messages)):
        return everything
    first = bisect_left(starts, True, key=lambda begin: fits([messages[place] for place in from_turn(begin)]))
    return from_turn(starts[min(first, len(starts) - 1)])
