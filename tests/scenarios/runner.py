"""Plays a scenario: each line goes to a real kvstore as real messages; what comes back is written behind its arrow.

``play`` gives the file as it should have been. A scenario holds if that is the file, to the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count, groupby, takewhile
from pathlib import Path
from typing import Any

from quire_proto import messages as m
from quire_proto.messages import handoff as h
from quire_proto.wire.digests import DIGEST_BYTES
from quire_proto.wire.envelope import Reply, decode_reply
from quire_proto.wire.u32 import pack_u32
from tests.scenarios.administration import Administration
from tests.scenarios.client import Client, answer, refusal
from tests.scenarios.engine import ITEMS, Engine, Slots
from tests.scenarios.kvstore import TICK_MS, ClientProcess, Kvstore, Settings
from tests.scenarios.reply_text import reply_text
from tests.scenarios.step_items import results_of, step_of
from tests.scenarios.words import Line, ScenarioError, Words, as_text, lines_of, milliseconds, whole

Told = Callable[[Any], str]
UNORDERED = 1 << 40
FOREVER = "36000s"
UNSAID = ("write", "copied", "swap")  # what an engine does by itself: OK goes without saying


def play(text: str, documents: Path) -> str:
    """The scenario as it came out. Raises ScenarioError for a line that is none, or after which an invariant broke.

    ``documents``: an empty folder, for what the kvstore keeps of declarations.
    """
    lines, at = lines_of(text), 0
    scenario = Scenario(documents)
    while at < len(lines):
        block = lines[at : at + 1]
        if block[0].says_something:
            block += takewhile(lambda line: line.is_item and line.says_something, lines[at + 1 :])
            try:
                results = scenario.play(block)
                scenario.check()
            except (ScenarioError, AssertionError) as exc:
                raise ScenarioError(f"{block[0].number}: {exc}") from exc
            told = [replace(line, right=result) for line, result in zip(block, results, strict=True)]
            lines[at : at + len(block)] = told
        at += len(block)
    return as_text(lines)


class Scenario:
    """What is there while a scenario runs: a kvstore, clients by name, and waits that have no answer yet."""

    def __init__(self, documents: Path) -> None:
        self._documents = documents
        self._store: Kvstore | None = None
        self._slots: Slots = {}
        self._clients: dict[str, Client] = {}
        self._pids, self._unordered = count(1), count(UNORDERED)
        self._waits: dict[int, str] = {}
        self._offers: dict[str, bytes] = {}

    def play(self, lines: list[Line]) -> list[str]:
        """Carry out a line, with the items below it if it is a step; what stands behind each arrow."""
        words = Words(lines[0].left)
        if lines[0].is_item or (len(lines) > 1 and words.verb != "step"):
            raise ScenarioError("an indented line is an item of a step")
        if words.verb == "step":
            text, *results = self._step(words, [Words(line.left) for line in lines[1:]])
        else:
            text, results = self._verb(words), []
        words.end()
        return ["; ".join(part for part in (text, *self._turn()) if part), *results]

    def check(self) -> None:
        """The kvstore's invariants; what each engine believes is what the kvstore knows; contents are right."""
        if self._store is None:
            return
        self._store.check()
        for client in self._clients.values():
            tables = self._store.tables(client.session) if client.process.alive else None
            if tables is None:
                client.engine.branches.clear()  # the session is gone, and its sequences with it
            else:
                client.engine.check(tables)

    @property
    def _kvstore(self) -> Kvstore:
        if self._store is None:
            raise ScenarioError("a scenario begins with its pool")
        return self._store

    def _verb(self, words: Words) -> str:
        verbs: dict[str, Callable[[Words], str]] = {
            "attach": self._attach,
            "after": self._after,
            "standstill": self._stand_still,
            "kill": self._kill,
            "hangup": self._hangup,
            "restart": self._restart,
            "resend": lambda words: self._client(words).resend(words.number("back", 0)),
            "heartbeat": self._heartbeat,
            "domain": self._domain,
            "detach": lambda words: self._ordered(self._client(words), "detach", m.Empty(), words),
            "wait": self._wait,
            "offer": self._offer,
            "adopt": self._adopt,
        }
        if words.verb == "pool":
            return self._pool(words)
        if self._store is None:
            raise ScenarioError("a scenario begins with its pool")
        return (verbs | self._administration.verbs).get(words.verb, self._item)(words)

    # --- processes and time -------------------------------------------------------------------------------------

    def _pool(self, words: Words) -> str:
        if self._store is not None:
            raise ScenarioError("there is one pool")
        blocks = words.number("blocks")
        settings = Settings(
            blocks=blocks,
            block_size=words.number("block_size"),
            policy=words.option("policy", "lru"),
            pin_budget=words.number("pin_budget", blocks),
            quarantine_reserve=words.number("quarantine_reserve", 0),
            lease_ms=words.time("lease", FOREVER),
            grace_ms=words.time("grace", FOREVER),
        )
        self._store = Kvstore(settings, self._documents)
        self._administer()
        return ""

    def _administer(self) -> None:
        self._administration = Administration(self._new_client("operator", 0), self._unordered)

    def _new_client(self, name: str, pid: int) -> Client:
        engine = Engine(name, self._slots, self._kvstore.settings.block_size, self._generation)
        return Client(name, self._kvstore, engine, ClientProcess(pid))

    def _attach(self, words: Words) -> str:
        """Start processes that attach and are ready; ``name=``: under which name, if not its own."""
        called, refused = words.option("name", ""), []
        for name in words.names("a session"):
            client = self._new_client(name, next(self._pids))
            refused.append(client.attach(called or name, self._unordered))
            if not refused[-1]:
                self._clients[name] = client
        return "; ".join(filter(None, refused))

    def _turn(self) -> list[str]:
        """What happens beside requests: waits that end, processes that are killed."""
        if self._store is None:
            return []
        texts = self._late([decode_reply(frame) for _, frame in self._store.turn()])
        for client in self._clients.values():
            if client.process.killed:
                texts.append(f"killed {client.name}")
                client.process.killed = False
                self._store.attend()
        return texts

    def _late(self, replies: list[Reply]) -> list[str]:
        """Waits that ended, those that ended alike in one."""

        def end(reply: Reply) -> str:
            return refusal(reply) if reply.code else str(reply.body["state"])

        return [
            f"answered {' '.join(self._waits.pop(reply.number) for reply in alike)} {how}"
            for how, alike in groupby(replies, end)
        ]

    def _after(self, words: Words) -> str:
        texts: list[str] = []
        end = self._kvstore.now + milliseconds(words.name("a time"))
        while self._kvstore.now < end:
            self._kvstore.now = min(end, self._kvstore.now + TICK_MS)
            texts += self._turn()
        return "; ".join(texts)

    def _stand_still(self, words: Words) -> str:
        """The kvstore stops and goes on: a debugger, a machine that sleeps."""
        self._kvstore.stand_still(milliseconds(words.name("a time")))
        return ""

    def _kill(self, words: Words) -> str:
        self._client(words).process.alive = False
        self._kvstore.attend()
        return ""

    def _heartbeat(self, words: Words) -> str:
        return answer("heartbeat", self._client(words).request("heartbeat", m.Heartbeat(), next(self._unordered)))

    def _domain(self, words: Words) -> str:
        client, body = self._client(words), m.Domain(words.option("tenant"), words.option("group", ""))
        return answer("domain", client.request("domain", body, next(self._unordered)))

    def _hangup(self, words: Words) -> str:
        """Close the side socket of a process that lives on."""
        self._client(words).side.hung_up = True
        self._kvstore.attend()
        return ""

    def _restart(self, _: Words) -> str:
        """``kill -9`` of the kvstore, and another one in the same state directory."""
        self._slots.clear()
        self._kvstore.boot()
        self._administer()
        return ""

    # --- ops of engines -----------------------------------------------------------------------------------------

    def _client(self, words: Words) -> Client:
        return self._named(words.name("a session"))

    def _named(self, name: str) -> Client:
        if name not in self._clients:
            raise ScenarioError(f"{name!r} is not attached")
        return self._clients[name]

    def _generation(self, publication: str) -> int:
        return self._administration.generation(publication)

    def _sequence(self, words: Words) -> tuple[Client, int, str]:
        name = words.name("a sequence")
        client = self._named(name.partition("/")[0])
        return client, whole(name.partition("/")[2], "a sequence"), name

    def _ordered(
        self, client: Client, op: str, body: Any, words: Words, told: Callable[[Any], str] = reply_text
    ) -> str:
        """``number=``: another than the session's next."""
        return answer(op, client.request(op, body, words.number("number", 0)), told)

    def _step(self, words: Words, lines: list[Words]) -> list[str]:
        """What the step as a whole was told, and each item."""
        client, items = self._client(words), []
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
        if words.verb not in ITEMS:
            raise ScenarioError(f"what is {words.verb!r}?")
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

    def _wait(self, words: Words) -> str:
        """For the last block that its allocate was told of, or a publication; ``again``: the same bytes once more."""
        client, number, name = self._sequence(words)
        publication, priority = words.option("publication", ""), words.number("priority", 0)
        digest = b"" if publication else client.engine.claimed.get(number, b"")[-DIGEST_BYTES:]
        generation = words.number("generation", self._generation(publication))
        body = m.Wait(number, digest, publication, priority, generation)
        request = self._open_wait(name) if words.flag("again") else next(self._unordered)
        reply = client.request("wait", body, request, words.time("deadline", "0ms"))
        if reply is None:
            self._waits[request] = name
        return answer("wait", reply)

    def _open_wait(self, name: str) -> int:
        """The number of the request with which a sequence waits."""
        found = [number for number, waiting in self._waits.items() if waiting == name]
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
