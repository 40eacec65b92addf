"""Plays a scenario: each line goes to a real kvstore as real messages; what comes back is written behind its arrow.

``play`` gives the file as it should have been. A scenario holds if that is the file, to the letter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import count, groupby, takewhile
from pathlib import Path

from quire_proto.wire.envelope import Reply, decode_reply
from tests.scenarios.administration import Administration
from tests.scenarios.client import Client, refusal
from tests.scenarios.engine import Engine
from tests.scenarios.kvstore import TICK_MS, ClientProcess, Kvstore, Settings
from tests.scenarios.operations import Operations
from tests.scenarios.words import Line, ScenarioError, Words, as_text, lines_of, milliseconds
from tests.support.stamped_arena import StampedArena

UNORDERED = 1 << 40
FOREVER = "36000s"


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
    """What is there while a scenario runs: a kvstore, processes, and a clock."""

    def __init__(self, documents: Path) -> None:
        self._documents = documents
        self._store: Kvstore | None = None
        self._pids, self._unordered = count(1), count(UNORDERED)
        self._operations = Operations(self._unordered, self._generation)

    def play(self, lines: list[Line]) -> list[str]:
        """Carry out a line, with the items below it if it is a step; what stands behind each arrow."""
        words = Words(lines[0].left)
        if lines[0].is_item or (len(lines) > 1 and words.verb != "step"):
            raise ScenarioError("an indented line is an item of a step")
        if words.verb == "step":
            text, *results = self._operations.step(words, [Words(line.left) for line in lines[1:]])
        else:
            text, results = self._verb(words), []
        words.end()
        return ["; ".join(part for part in (text, *self._turn()) if part), *results]

    def check(self) -> None:
        """The kvstore's invariants; what each engine believes is what the kvstore knows; contents are right."""
        if self._store is None:
            return
        self._store.check()
        for client in self._operations.clients.values():
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
        }
        if words.verb == "pool":
            return self._pool(words)
        if self._store is None:
            raise ScenarioError("a scenario begins with its pool")
        verbs |= self._operations.verbs | self._administration.verbs
        if words.verb not in verbs:
            raise ScenarioError(f"what is {words.verb!r}?")
        return verbs[words.verb](words)

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
        self._arena = StampedArena.in_memory(blocks, settings.block_size)
        self._administer()
        return ""

    def _administer(self) -> None:
        self._administration = Administration(self._new_client("operator", 0), self._unordered)

    def _generation(self, publication: str) -> int:
        return self._administration.generation(publication)

    def _new_client(self, name: str, pid: int) -> Client:
        def key(tenant: str) -> bytes:
            return self._operations.clients[name].key(tenant, next(self._unordered))

        engine = Engine(name, self._arena, self._kvstore.settings.block_size, self._generation, key)
        return Client(name, self._kvstore, engine, ClientProcess(pid))

    def _attach(self, words: Words) -> str:
        """Start processes that attach and are ready; ``name=``: under which name, if not its own."""
        called, refused = words.option("name", ""), []
        for name in words.names("a session"):
            client = self._new_client(name, next(self._pids))
            refused.append(client.attach(called or name, self._unordered))
            if not refused[-1]:
                self._operations.clients[name] = client
        return "; ".join(filter(None, refused))

    def _turn(self) -> list[str]:
        """What happens beside requests: waits that end, processes that are killed."""
        if self._store is None:
            return []
        texts = self._late([decode_reply(frame) for _, frame in self._store.turn()])
        for client in self._operations.clients.values():
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
            f"answered {' '.join(self._operations.waits.pop(reply.number) for reply in alike)} {how}"
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
        self._operations.client(words).process.alive = False
        self._kvstore.attend()
        return ""

    def _hangup(self, words: Words) -> str:
        """Close the side socket of a process that lives on."""
        self._operations.client(words).side.hung_up = True
        self._kvstore.attend()
        return ""

    def _restart(self, _: Words) -> str:
        """``kill -9`` of the kvstore, and another one in the same state directory."""
        self._arena.clear()
        self._kvstore.boot()
        self._administer()
        return ""
