"""Happenings: what an operator wants to read the next morning: engines that came, went and died, and what that did.

Looked for once a second, whether somebody watches or not, in what the gateway knows of its engines and in the
kvstore's brief counters, which take it a tenth of a millisecond. The last ones are kept, in memory alone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any

from quire_kv import Stats
from quire_services.gateway.engines import Engines
from quire_services.gateway.exposition.kvstore_answers import KvstoreAnswers

LOOK_S = 1.0
TROUBLE = ("unresponsive", "without a kvstore")
MOST_LINES, MOST_DEATHS_KEPT = 200, 8
DEATH_S = 60.0  # that long, what the kvstore counts is put down to a death


@dataclass(slots=True)
class Happening:
    """One line. ``kind``: engine, session, kvstore, publication; ``number`` rises."""

    number: int
    at: float
    kind: str
    text: str
    bad: bool = False


@dataclass(slots=True)
class Death:
    """An engine whose connection ended, and what came of it. Times are Unix times, 0: not yet.

    Attributes:
        continuations: of requests, that went on elsewhere.
        references: to blocks, that came back to the pool.
        quarantined: blocks, at most.
        reclaimed_at: when its session's blocks were back.
        back_at: when an engine of its name was ready again.
    """

    engine: str
    pid: int
    at: float
    continuations: int
    quarantined: int = 0
    references: int = 0
    reclaimed_at: float = 0.0
    back_at: float = 0.0


class Happenings:
    """The last happenings and deaths of one stack."""

    def __init__(self, engines: Engines, kvstore: KvstoreAnswers) -> None:
        self.lines = deque[Happening](maxlen=MOST_LINES)
        self.deaths = deque[Death](maxlen=MOST_DEATHS_KEPT)
        self._engines, self._kvstore = engines, kvstore
        self._states = dict[tuple[str, int], str]()
        self._losses = 0
        self._stats: Stats | None = None
        self._boot = b""
        self._told = 0

    async def watch(self) -> None:
        """Look, until cancelled."""
        while True:
            self.look(await self._kvstore.stats())
            await asyncio.sleep(LOOK_S)

    def look(self, stats: Stats | None) -> None:
        """Compare with the last look; ``stats``: of the kvstore now, None without one."""
        self._look_at_engines()
        self._look_at_kvstore(stats)

    def after(self, number: int) -> list[dict[str, Any]]:
        """The lines behind one of that number, the oldest first."""
        return [asdict(line) for line in self.lines if line.number > number]

    def deaths_as_json(self) -> list[dict[str, Any]]:
        """The deaths, the latest first."""
        return [asdict(death) for death in reversed(self.deaths)]

    def _say(self, kind: str, text: str, *, bad: bool = False) -> None:
        self._told += 1
        self.lines.append(Happening(self._told, time.time(), kind, text, bad))

    def _look_at_engines(self) -> None:
        losses = self._engines.losses
        for loss in losses.since(self._losses):
            carried = loss.continuations
            moved = f"{carried} continuations go on elsewhere" if carried else "it carried nothing"
            if loss.expected:
                self._say("engine", f"{loss.engine} (pid {loss.pid}) left: {moved}")
            else:
                self.deaths.append(Death(loss.engine, loss.pid, loss.at, loss.continuations))
                self._say("engine", f"{loss.engine} (pid {loss.pid}) is gone: {moved}", bad=True)
        self._losses = losses.count
        now = {(one.hello.engine, one.hello.pid): one.why_not() or "ready" for one in self._engines.all()}
        for (name, pid), state in now.items():
            if self._states.get((name, pid)) != state:
                self._say("engine", f"{name} (pid {pid}) is {state}", bad=state in TROUBLE)
                for death in self.deaths:
                    if state == "ready" and death.engine == name and not death.back_at:
                        death.back_at = time.time()
        self._states = now

    def _look_at_kvstore(self, stats: Stats | None) -> None:
        before, self._stats = self._stats, stats
        if stats is None:
            if before is not None:
                self._say("kvstore", "the kvstore does not answer", bad=True)
            return
        if stats.boot != self._boot:
            again = "a new one: the pool is empty" if self._boot else "its pool is watched from now on"
            self._say("kvstore", f"a kvstore answers, {again}", bad=bool(self._boot))
            self._boot = stats.boot
            return
        if before is not None:
            self._compare(before, stats)

    def _compare(self, before: Stats, stats: Stats) -> None:
        def more(name: str) -> int:
            return stats.counters.get(name, 0) - before.counters.get(name, 0)

        states = {(one.name, one.pid): one.state for one in before.sessions}
        for one in stats.sessions:
            if one.state == "fenced" and states.get((one.name, one.pid)) != "fenced":
                self._say("session", f"{one.name} (pid {one.pid}) was fenced with {one.blocks} references", bad=True)
        if more("not_killed"):
            self._say("session", "a fenced process could not be killed: its blocks stay in quarantine", bad=True)
        quarantined, was = stats.blocks.get("quarantined", 0), before.blocks.get("quarantined", 0)
        if quarantined != was:
            self._say("kvstore", f"{quarantined} blocks are in quarantine, before {was}", bad=quarantined > was)
        if more("reclaimed_sessions"):
            count, references = more("reclaimed_sessions"), more("reclaimed_references")
            self._say("session", f"{count} ended: {references} references to blocks came back")
        self._put_down_to_deaths(before, stats, more("reclaimed_references"))
        there = {one.id: one.state for one in before.publications}
        now = {one.id: one.state for one in stats.publications}
        for identity, state in now.items():
            if there.get(identity) != state:
                self._say("publication", f"{identity} is {state}")
        for identity in there.keys() - now.keys():
            self._say("publication", f"{identity} is taken back")

    def _put_down_to_deaths(self, before: Stats, stats: Stats, references: int) -> None:
        open_ones = [one for one in self.deaths if not one.reclaimed_at and time.time() - one.at < DEATH_S]
        was, now = ({(one.name, one.pid) for one in look.sessions} for look in (before, stats))
        for death in open_ones:
            death.quarantined = max(death.quarantined, stats.blocks.get("quarantined", 0))
            if (death.engine, death.pid) in was - now:
                death.references, death.reclaimed_at = references, time.time()
