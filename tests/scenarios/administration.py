"""What operators and tenants ask in a scenario, and what anyone may read: no session, no order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict
from typing import Any

from quire_proto import messages as m
from quire_proto.messages import sharing as s
from quire_proto.messages.tenants import SetQuota, Tenants, TenantUsage
from quire_proto.wire.u32 import pack_u32
from tests.scenarios.client import Client, answer
from tests.scenarios.reply_text import reply_text, selected
from tests.scenarios.words import Words, tokens


class Administration:
    """The ops without a session, by their words. ``numbers``: of requests, none twice."""

    def __init__(self, client: Client, numbers: Iterator[int]) -> None:
        self._client, self._numbers = client, numbers
        self.verbs: dict[str, Callable[[Words], str]] = {
            "lookup": lambda words: self._ask("lookup", m.Lookup(words.name("an id"))),
            "stats": self._stats,
            "sessions": self._sessions,
            "publications": self._publications,
            "tenant": self._tenant,
            "quota": self._quota,
            "publish": self._publish,
            "unpublish": self._unpublish,
            "join": lambda words: self._ask("join", s.Join(words.name("a tenant"), words.name("a group"))),
            "leave": lambda words: self._ask("leave", s.Leave(words.name("a tenant"), words.name("a group"))),
        }

    def generation(self, publication: str) -> int:
        """Generation of a publication, as a client finds it in the list; 0 if it is not there."""
        found = [0]

        def told(reply: m.Publications) -> str:
            found.extend(record.generation for record in reply.publications if record.id == publication)
            return ""

        if publication:
            self._ask("publications", m.Empty(), told)
        return found[-1]

    def _ask(self, op: str, body: Any, told: Callable[[Any], str] = reply_text) -> str:
        return answer(op, self._client.request(op, body, next(self._numbers)), told)

    def _publications(self, _: Words) -> str:
        def told(reply: m.Publications) -> str:
            return " ".join(f"{record.id}={record.state}" for record in reply.publications) or "none"

        return self._ask("publications", m.Empty(), told)

    def _publish(self, words: Words) -> str:
        prompt = pack_u32(tokens(words.option("tokens")))
        body = s.Publish(words.name("an id"), words.option("domain"), prompt, words.option("tenant", ""))
        return self._ask("publish", body)

    def _unpublish(self, words: Words) -> str:
        return self._ask("unpublish", s.Unpublish(words.name("an id"), words.option("tenant", "")))

    def _quota(self, words: Words) -> str:
        limit, guarantee, weight = (words.number("limit", 0), words.number("guarantee", 0), words.number("weight", 100))
        body = SetQuota(words.name("a tenant"), limit, guarantee, weight)

        def told(row: TenantUsage) -> str:
            numbers = _numbers(row)
            return f"OK {selected(numbers, [name for name in numbers if numbers[name]])}"

        return self._ask("quota", body, told)

    def _stats(self, words: Words) -> str:
        names = words.names("a counter")
        return self._ask("stats", m.Empty(), lambda r: selected(r.blocks | r.slots | r.counters, names))

    def _sessions(self, _: Words) -> str:
        def told(reply: m.Stats) -> str:
            return " ".join(f"{session.name}={session.state}" for session in reply.sessions) or "none"

        return self._ask("stats", m.Empty(), told)

    def _tenant(self, words: Words) -> str:
        name, names = words.name("a tenant"), words.names("a number")

        def told(reply: Tenants) -> str:
            row = next((row for row in reply.tenants if row.tenant == name), None)
            return "none" if row is None else selected(_numbers(row), names)

        return self._ask("tenants", m.Empty(), told)


def _numbers(row: TenantUsage) -> dict[str, int]:
    return {name: value for name, value in asdict(row).items() if name != "tenant"}
