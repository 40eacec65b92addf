"""Gangs in the scheduler: all slots or none, no beam given up alone, and the oldest request is never the victim."""

from __future__ import annotations

from quire_engine.beams.beam import Beam, Gang
from quire_engine.beams.search import BeamSearch, SearchLimits
from quire_engine.fairness.shares import Shares
from quire_engine.fairness.slots import slot_donor
from quire_engine.fairness.victim import victim
from quire_engine.scheduling.scheduler import Scheduler, SchedulerLimits
from quire_engine.sequences.sequence import Sequence
from tests.support.bare_loop import BLOCK, sequence

WIDTH = 4


def gang(tenant: str, arrival: int) -> Beam:
    """A search that has not begun."""
    plain = sequence(tenant, arrival, 4, n=WIDTH)
    of = Gang(BeamSearch(SearchLimits(WIDTH, 8, frozenset())), 1)
    of.beams = [Beam(0, plain.request, 0, plain.tokens, plain.chain, arrival, gang=of)]
    return of.beams[0]


def forked(tenant: str, arrival: int) -> list[Sequence]:
    """The beams of a search that has."""
    first = gang(tenant, arrival)
    others = [Beam(i, first.request, 0, first.tokens, first.chain, arrival, gang=first.gang) for i in (1, 2, 3)]
    first.gang.beams += others
    first.request.forked = True
    return first.members


def step(scheduler: Scheduler) -> None:
    """Everything that is wanted is granted and computed."""
    wanted = scheduler.plan({}, True)
    for one in wanted.admits:
        scheduler.admitted(one, wanted)
    for item in wanted.work:
        item.sequence.computed += item.count
        if not item.sequence.remaining:
            item.sequence.append(1)


def test_a_gang_is_admitted_when_there_is_a_slot_for_each_beam() -> None:
    """Until then what becomes free is kept for it: none that came later goes before."""
    scheduler = Scheduler(SchedulerLimits(6, 64, BLOCK))
    early = [sequence("a", number, 2) for number in range(4)]
    for one in early:
        scheduler.add(one)
    step(scheduler)
    asked = gang("b", 10)
    late = [sequence("a", 11 + number, 2) for number in range(6)]
    for one in (asked, *late):
        scheduler.add(one)
    for one in early[:2]:
        assert asked not in scheduler.running
        step(scheduler)
        scheduler.remove(one)
    step(scheduler)
    assert scheduler.running == [*early[2:], asked]
    assert scheduler.slots_left() == 0


def test_a_gang_gives_its_slots_up_together_or_keeps_them() -> None:
    """Its tenant keeps its portion: where that is smaller than what is left without the gang, another one yields."""
    shares, head = Shares(), [sequence("b", 20, 2)]
    singles: list[Sequence] = [sequence("a", 5 + number, 2) for number in range(4)]
    for tenant in "ab":
        shares.join(tenant)
    assert slot_donor(shares, forked("a", 1), head, 4) is None
    head[0].slot_promised = False
    two = [*forked("a", 1), *forked("a", 2)]
    gives = slot_donor(shares, two, head, 8)
    assert gives is not None
    assert gives.arrival == 2
    head[0].slot_promised = False
    mixed = [*forked("a", 9), *singles]
    assert slot_donor(shares, mixed, head, 8) is singles[-1]

    scheduler = Scheduler(SchedulerLimits(8, 64, BLOCK))
    for one in two:
        scheduler.joined(one)
    assert scheduler.yield_slot(gives)
    assert (list(scheduler.waiting), scheduler.slots_left()) == ([gives.members[0]], 4)


def test_the_oldest_request_is_no_victim_by_one_of_its_beams() -> None:
    """Its beams count as old as it is; and where one beam of a gang is the victim, none of it is computed."""
    oldest, newer = forked("a", 1), [sequence("b", 5, 2)]
    assert victim(Shares(), [*oldest, *newer]) is newer[0]
    scheduler = Scheduler(SchedulerLimits(8, 64, BLOCK))
    beams = forked("a", 3)
    plain = sequence("a", 1, 2)
    for one in (*beams, plain):
        scheduler.joined(one)
    plan = scheduler.plan({}, False)
    assert len(plan.work) == 5
    gives = scheduler.starved(plain, plan)
    assert gives in beams
    assert (plan.work, scheduler.running, list(scheduler.waiting)) == ([], [plain], [beams[0]])
