"""What engines ask in a scenario: the ops of sessions and sequences, one line a message or many items in one step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from quire_proto import messages as m
from quire_proto.messages import handoff as h
from quire_proto.wire.digests import DIGEST_BYTES
from quire_proto.wire.u32 import pack_u32
from tests.scenarios.client import Client, answer
from tests.scenarios.engine import ITEMS
from tests.scenarios.reply_text import reply_text
from tests.scenarios.step_items import results_of, step_of
from tests.scenarios.words import ScenarioError, Words, whole

Told = Callable[[Any], str]
UNSAID = ("write", "copied", "swap")  # what an engine does by itself: OK goes without saying


class Operations:
    """The ops of engines, by their words.

    Attributes:
        clients: by name, those that are attached or were.
        waits: which sequence waits, by the number of the request that has no answer yet.
    """

    def __init__(self, numbers: Iterator[int], generation: Callable[[str], int]) -> None:
        """``numbers``: of unordered requests, none twice; ``generation``: of a publication by id."""
        self.clients: dict[str, Client] = {}
        self.waits: dict[int, str] = {}
        self._numbers, self._generation = numbers, generation
        self._offers: dict[str, bytes] = {}
        self.verbs: dict[str, Callable[[Words], str]] = {
            **dict.fromkeys(ITEMS, self._item),
            "resend": lambda words: self.client(words).resend(words.number("back", 0)),
            "heartbeat": self._heartbeat,
            "domain": self._domain,
            "detach": lambda words: self._ordered(self.client(words), "detach", m.Empty(), words),
            "wait": self._wait,
            "offer": self._offer,
            "adopt": self._adopt,
        }

    def client(self, words: Words) -> Client:
        """The client that a line names."""
        return self._named(words.name("a session"))

    def _named(self, name: str) -> Client:
        if name not in self.clients:
            raise ScenarioError(f"{name!r} is not attached")
        return self.clients[name]

    def _sequence(self, words: Words) -> tuple[Client, int, str]:
        name = words.name("a sequence")
        client = self._named(name.partition("/")[0])
        return client, whole(name.partition("/")[2], "a sequence"), name

    def _ordered(self, client: Client, op: str, body: Any, words: Words, told: Told = reply_text) -> str:
        """``number=``: another than the session's next."""
        return answer(op, client.request(op, body, words.number("number", 0)), told)

    def step(self, words: Words, lines: list[Words]) -> list[str]:
        """What the step as a whole was told, and each item."""
        client, items = self.client(words), []
        for line in lines:
            items.append(client.engine.item(line))
            line.end()
        results: list[str] = []

        def told(reply: m.Stepped) -> str:
            results.extend(results_of(items, reply))
            moved = reply.publications_generation != client.publications
            client.publications = reply.publications_generation
            urgent = reply_text(m.Stepped(priorities=reply.priorities)).removeprefix("OK").strip()
            return " ".join(filter(None, [urgent, "publications changed" if moved else ""]))

        text = self._ordered(client, "step", step_of(items), words, told)
        return [text, *(results or [""] * len(items))]

    def _item(self, words: Words) -> str:
        """An op about sequences in a message of its own; what has no op is a step of one item."""
        client = self._named(words.first.partition("/")[0])
        item = client.engine.item(words)
        if item.op == "free":
            return self._ordered(
                client, "free", m.Free(pack_u32(item.rows)), words, lambda r: item.told(r.codes, m.Stepped())
            )
        if item.op:
            body = m.Extend(*item.rows[0]) if item.op == "extend" else item.rows[0]
            return self._ordered(client, item.op, body, words, lambda r: item.told((r,), m.Stepped()))
        text = self._ordered(client, "step", step_of([item]), words, lambda r: results_of([item], r)[0])
        return "" if words.verb in UNSAID and set(text.split(",")) <= {"OK", ""} else text

    def _heartbeat(self, words: Words) -> str:
        return answer("heartbeat", self.client(words).request("heartbeat", m.Heartbeat(), next(self._numbers)))

    def _domain(self, words: Words) -> str:
        client, body = self.client(words), m.Domain(words.option("tenant"), words.option("group", ""))
        return answer("domain", client.request("domain", body, next(self._numbers)))

    def _wait(self, words: Words) -> str:
        """For the last block that its allocate was told of, or a publication; ``again``: the same bytes once more."""
        client, number, name = self._sequence(words)
        publication, priority = words.option("publication", ""), words.number("priority", 0)
        digest = b"" if publication else client.engine.claimed.get(number, b"")[-DIGEST_BYTES:]
        generation = words.number("generation", self._generation(publication))
        body = m.Wait(number, digest, publication, priority, generation)
        request = self._open_wait(name) if words.flag("again") else next(self._numbers)
        reply = client.request("wait", body, request, words.time("deadline", "0ms"))
        if reply is None:
            self.waits[request] = name
        return answer("wait", reply)

    def _open_wait(self, name: str) -> int:
        """The number of the request with which a sequence waits."""
        found = [number for number, waiting in self.waits.items() if waiting == name]
        if not found:
            raise ScenarioError(f"{name} does not wait")
        return found[-1]

    def _offer(self, words: Words) -> str:
        client, number, name = self._sequence(words)
        body = h.Offer(number, self._named(words.option("to")).session, words.time("expires"))

        def told(reply: h.Offered) -> str:
            self._offers[name] = reply.offer
            return "OK"

        return self._ordered(client, "offer", body, words, told)

    def _adopt(self, words: Words) -> str:
        client, number, _ = self._sequence(words)
        source = words.option("of")
        if source not in self._offers:
            raise ScenarioError(f"{source} was never offered")
        owner, sequence = self._named(source.partition("/")[0]), int(source.partition("/")[2])

        def told(reply: h.Adopted) -> str:
            client.engine.adopted(number, owner.engine.branches.pop(sequence), reply)
            return reply_text(reply)

        return self._ordered(client, "adopt", h.Adopt(self._offers[source], number), words, told)
