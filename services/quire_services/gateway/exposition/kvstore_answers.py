"""What the kvstore answers to those who scrape: asked once for all that ask in the same moment.

However many scrape, the kvstore has one question of theirs at a time, and no more than a few in a second: it has one
thread, which engines wait for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from quire_kv import Events, KVReader, QuireError, Stats
from quire_proto.messages.tenants import Tenants
from quire_services.process.kvstore_call import kvstore_reader

FRESH_S = 0.25
TIMEOUT_S = 2.0  # well within the ten seconds that Prometheus waits
_T = TypeVar("_T")


@dataclass(slots=True)
class _Question(Generic[_T]):
    """One question, and its last answer: None if there was none."""

    run_dir: Path
    ask: Callable[[KVReader], _T]
    asked: asyncio.Task[_T | None] | None = None
    until: float = 0.0

    async def answer(self) -> _T | None:
        """The kvstore's answer, at most ``FRESH_S`` old."""
        if self.asked is None or (self.asked.done() and asyncio.get_running_loop().time() > self.until):
            self.asked = asyncio.ensure_future(self._fetch())
        return await asyncio.shield(self.asked)  # one who leaves takes it from nobody else

    async def _fetch(self) -> _T | None:
        loop = asyncio.get_running_loop()
        self.until = loop.time() + FRESH_S  # counted from the question: an answer may be as old as that
        return await loop.run_in_executor(None, self._call)

    def _call(self) -> _T | None:
        try:
            with kvstore_reader(self.run_dir, TIMEOUT_S) as reader:
                return self.ask(reader)
        except (QuireError, OSError):
            return None


class KvstoreAnswers:
    """Answers of the kvstore in a run directory; None while there is none."""

    def __init__(self, run_dir: Path) -> None:
        self._stats = _Question[Stats](run_dir, lambda reader: reader.stats(brief=True))
        self._events = _Question[Events](run_dir, lambda reader: reader.events())
        self._tenants = _Question[Tenants](run_dir, lambda reader: reader.tenants())

    async def stats(self) -> Stats | None:
        """Its own counters."""
        return await self._stats.answer()

    async def events(self) -> Events | None:
        """Where its events are; None if it publishes none, too."""
        return await self._events.answer()

    async def tenants(self) -> Tenants | None:
        """What each tenant has."""
        return await self._tenants.answer()
