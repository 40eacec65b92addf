"""Handoffs: which continuations are to leave their engine, and for which one.

Everything leaves an engine that is drained. What it runs goes, each continuation by itself, to engines that have a
batch slot for it: there it is adopted with all that is computed of it, and until there is such an engine it goes on
where it is. What has no token yet shares a prompt and goes as one; it may wait for a slot as well there as here. A beam
search, whose state cannot leave, may end within ``SEARCH_S`` and then begins again elsewhere.

From an engine whose role it is to prefill each continuation goes that has a token, to one whose role is another.

What an engine has not given back in ``ASK_AGAIN_S`` it is asked for again: it may not have been able to offer it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator

from quire_proto.gateway_link import DECODE, PREFILL
from quire_services.gateway.awake_clock import clock
from quire_services.gateway.generations import Attempt

from .engine import Engine

ASK_AGAIN_S = 2.0
SEARCH_S = 20.0
NEVER = (None, float("-inf"))


def hand_over(engine: Engine, targets: Collection[Engine]) -> None:
    """Have an engine hand over what is to leave it and can go to ``targets`` now."""
    slots = Counter({target: target.free_slots - _promised(engine, target) for target in targets})
    busy = {target: target.busyness() for target in targets}
    moves = defaultdict[Engine, list[tuple[Attempt, int]]](list)
    for attempt, part in _due(engine):
        able = [target for target in targets if slots[target] > 0 or not attempt.answered]
        if not able:
            continue
        begun = attempt.answered
        to = min(able, key=lambda target: (slots[target] <= 0, not suits(target, begun), busy[target]))
        slots[to] -= len(part)
        busy[to] += len(part)
        moves[to] += [(attempt, index) for index in part]
    for to, items in moves.items():
        engine.hand_over(items, to)


def suits(engine: Engine, begun: bool) -> bool:
    """Whether an engine is for what has a token, or for what has none."""
    return engine.hello.role != (PREFILL if begun else DECODE)


def best_suited(engines: Collection[Engine], begun: bool) -> list[Engine]:
    """Those of some engines that suit; all, if none does."""
    return [engine for engine in engines if suits(engine, begun)] or list(engines)


def _due(engine: Engine) -> Iterator[tuple[Attempt, list[int]]]:
    """What is to leave and has not been asked for, or not been given back for long: together what goes as one."""
    now = clock.now()
    for attempt in engine.attempts.values():
        wait_s = SEARCH_S if attempt.generation.sampling.beam_width else 0.0
        late = {index for index in attempt.open if now - attempt.asked.get(index, NEVER)[1] > ASK_AGAIN_S}
        if not late or (engine.drained_s < wait_s if engine.drained else wait_s or not attempt.answered):
            continue
        yield from [(attempt, [index]) for index in sorted(late)] if attempt.answered else [(attempt, sorted(late))]


def _promised(engine: Engine, target: Engine) -> int:
    """Continuations that are on their way from one to the other."""
    return sum(to is target for attempt in engine.attempts.values() for to, _ in attempt.asked.values())
