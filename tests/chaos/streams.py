"""Chaos under streams: engines and the kvstore of a whole stack are ended at random while clients read answers.

    python -m tests.chaos.streams [--minutes 2] [--seed S] [--save NAME]

Sixteen clients read one stream after the other from three engines, answers of every kind, and compare each with what an
undisturbed stack said. Meanwhile engines are killed, stopped for a moment, until they are fenced or for good, drained,
asked to end or given no more memory, and the kvstore is killed. No request may fail, no answer differ, and in the end
no block may be held that was not before; sequences, sockets, segments and processes are looked for, too.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import tempfile
import threading
import time
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx

from bench.report.figures import Report, percentile, table
from quire_proto.wire.errors import QuireError
from tests.chaos.request_lines import request_line, request_lines
from tests.support.operated import Operated
from tests.support.ports import free_port
from tests.support.stack import Stack
from tests.support.survival import (
    KINDS,
    End,
    Streamed,
    ask_to_end,
    hang,
    hang_briefly,
    hang_until_fenced,
    kill,
    kill_kvstore,
    same,
    settled,
    starve,
    stream,
    surviving_stack,
    with_stop,
)
from tests.support.waits import wait_for

CLIENTS, ENGINES = 16, 3
LONGER = 400  # tokens
LONG_PROMPT = 3000
PATIENCE_S = 6.0  # with an engine that needs no more memory than it has
DRAIN = "drain"
ACTS: dict[str, tuple[End | None, int]] = {  # how often, one beside the other
    "kill -9": (kill, 4),
    "SIGSTOP": (hang, 2),
    "SIGSTOP until fenced": (hang_until_fenced, 2),
    "SIGSTOP for 0.3 s": (hang_briefly, 2),
    "SIGTERM": (ask_to_end, 3),
    DRAIN: (None, 3),  # by the admin API
    "out of memory": (starve, 2),
    "kill -9 of the kvstore": (kill_kvstore, 2),
}
STOOD = 5.0  # median steps: a stream that says nothing for longer stands still


class Client(threading.Thread):
    """Reads one stream after the other, always the same."""

    def __init__(self, stack: Stack, name: str, asked: dict[str, Any], over: threading.Event) -> None:
        super().__init__(name=name, daemon=True)
        self._stack, self._asked, self._over = stack, asked, over
        self.whole = stream(stack, asked | {"cache_salt": name})
        self.read: list[Streamed] = []
        self.failures: list[str] = []

    def run(self) -> None:
        """Until it is over."""
        while not self._over.is_set():
            salt = {"cache_salt": f"{self.name} {len(self.read)}"}
            try:
                told = stream(self._stack, self._asked | salt)
            except (AssertionError, httpx.HTTPError) as error:
                self.failures.append(f"{self.name}: {error!r}"[:300])
                time.sleep(0.5)
                continue
            self.read.append(told)
            if not same(told, self.whole):
                pairs = zip(told.choices(), self.whole.choices(), strict=False)
                first = next((pair for pair in pairs if pair[0] != pair[1]), "one is longer")
                line = request_line(self._stack.log, told.request)
                self.failures.append(f"{self.name}: another answer, {line}: {first}")


class Chaos:
    """One run."""

    def __init__(self, stack: Stack, operated: Operated, seed: int) -> None:
        self._operated = operated
        self.stack, self.rng, self._over = stack, random.Random(seed), threading.Event()
        settled(stack, ENGINES)
        asked = [one | ({"max_tokens": LONGER} if "max_tokens" in one else {}) for one in KINDS.values()]
        asked[list(KINDS).index("stop string")] = with_stop(stack, asked[list(KINDS).index("stop string")])
        names = [f"{kind} {number}" for number, kind in enumerate([*KINDS, *KINDS][:CLIENTS])]
        with ThreadPoolExecutor(4) as pool:
            made = [pool.submit(Client, stack, name, asked[i % len(asked)], self._over) for i, name in enumerate(names)]
            self.clients = [one.result() for one in made]
        settled(stack, ENGINES)
        self._held = stack.stats().blocks["held"]  # of the published prompt, which some of them have asked for
        self.acts: list[tuple[str, float]] = []
        self.batches: list[int] = []

    def run(self, minutes: float) -> None:
        """Act until the time is over, each time two engines are there to choose from."""
        for client in self.clients:
            client.start()
        end = time.monotonic() + 60 * minutes
        every = [name for name, (_, times) in ACTS.items() for _ in range(times)]
        deck: list[str] = []
        while time.monotonic() < end:
            deck = deck or self.rng.sample(every, len(every))
            pids = wait_for(self._choice, "two engines are there", 120)
            self._look(self.rng.uniform(0.3, 2.0))
            self._act(deck.pop(), self.rng.choice(pids))
        self._over.set()
        for client in self.clients:
            client.join(120)
            assert not client.is_alive(), f"{client.name} waits for ever:\n{self._state()}"

    def _state(self) -> str:
        """What the engines do, and what was said last."""
        rows = [{k: v for k, v in row.items() if k != "counters"} for row in self._operated.rows().values()]
        sessions = "\n".join(map(str, self.stack.stats().sessions))
        waiting = [client.name for client in self.clients if client.is_alive()]
        return f"waiting: {waiting}\n{rows}\n{sessions}\n{self.stack.log.read_text()[-4000:]}"

    def _choice(self) -> list[int]:
        """The engines, if there are two of them."""
        with suppress(QuireError, OSError):
            pids = list(self.stack.ready_sessions().values())
            return pids if len(pids) > 1 else []
        return []

    def _look(self, seconds: float) -> None:
        """See for a while how many sequences there are."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            with suppress(QuireError, OSError):
                self.batches.append(sum(session.sequences for session in self.stack.stats().sessions))
            time.sleep(0.1)

    def _act(self, name: str, pid: int) -> None:
        end, _ = ACTS[name]
        if end is starve:
            self._starve(pid)
            return
        began = time.monotonic()
        if end is None:
            if self._operated.drain_and_undrain(pid):
                self.acts.append((name, began))
            return
        self.acts.append((name, began))
        with suppress(ProcessLookupError, LookupError):  # of an act before
            end(self.stack, pid)

    def _starve(self, pid: int) -> None:
        """Give an engine no more memory, and ask for what needs some until it ends; one that gets along with what lies
        free in it is ended as the kernel does it."""
        try:
            starve(self.stack, pid)
        except ProcessLookupError:  # of an act before
            return
        began = time.monotonic()
        end = began + PATIENCE_S
        while Path(f"/proc/{pid}/status").exists():
            began = time.monotonic()
            if began > end:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                break
            prompt = [self.rng.randrange(3, 300) for _ in range(LONG_PROMPT)]
            assert self.stack.complete(prompt, max_tokens=1)["usage"]["completion_tokens"] == 1
        self.acts.append(("out of memory", began))

    def finish(self) -> None:
        """Nothing failed, and nothing is left. Raises AssertionError."""
        failures = [failure for client in self.clients for failure in client.failures]
        assert not failures, failures[:5]
        settled(self.stack, ENGINES)

        def left() -> dict[str, int]:
            blocks = self.stack.stats().blocks
            return {"held": blocks["held"] - self._held, "quarantined": blocks["quarantined"]}

        wait_for(lambda: not any(left().values()), "no block is left", 30)

    def report(self, minutes: float, seed: int) -> Report:
        """The figures."""
        settings = {"minutes": minutes, "seed": seed, "clients": CLIENTS, "engines": ENGINES, "tokens": LONGER}
        report = Report("streams", settings)
        report.command = f"python -m tests.chaos.streams --minutes {minutes:g}"
        streams = [told for client in self.clients for told in client.read]
        steps = [b - a for told in streams for a, b in zip(told.times, told.times[1:], strict=False)]
        step, stood = percentile(steps, 0.5), defaultdict[str, list[float]](list)
        for name, when in self.acts:
            stood[name] += [gap for told in streams if (gap := gap_at(told, when)) > STOOD * step]
        counts = {name: sum(name == act for act, _ in self.acts) for name in ACTS}
        rows: list[list[object]] = [
            [name, counts[name], len(gaps), *(percentile(gaps, share) if gaps else None for share in (0.5, 0.99, 1.0))]
            for name in ACTS
            for gaps in [stood[name]]
        ]
        header = ["what happened", "times", "streams that stood still", "gap p50, s", "p99, s", "longest, s"]
        report.tables.append(("What clients saw of it", table(rows, header)))
        lines = request_lines(self.stack.log)
        moves = sum(line["moves"] for line in lines.values())
        again = sum(line["recomputed_tokens"] for line in lines.values())
        handed = sum(line["recomputed_handoff_tokens"] for line in lines.values())
        facts: list[list[object]] = [
            ["streams read", len(streams)],
            ["requests that failed", 0],
            ["streams that differ from their undisturbed run", 0],
            ["choices that moved", moves],
            ["tokens computed again after a loss, a move", (again - handed) / max(1, moves)],
            ["tokens computed again of what was handed over", handed],
            ["sequences at once, median", percentile(self.batches, 0.5)],
            ["median step of a stream, s", step],
            ["blocks, sequences, sockets, segments left", 0],
        ]
        report.tables.append(("What was done, and found", table(facts, ["what", "count"])))
        report.notes.append(
            f"A stream stood still where it said nothing for longer than {STOOD:g} median steps when it happened; "
            "the others went on."
        )
        report.figures = {"gaps": dict(stood), "acts": counts, "streams": len(streams), "moves": moves}
        report.figures |= {
            "recomputed": again,
            "recomputed_handoff": handed,
            "batch": percentile(self.batches, 0.5),
            "step_s": step,
        }
        return report


def gap_at(told: Streamed, when: float) -> float:
    """How long a stream said nothing around a moment; 0 if it was not there."""
    return next((b - a for a, b in zip(told.times, told.times[1:], strict=False) if a <= when < b), 0.0)


def run(minutes: float, seed: int, directory: Path) -> Report:
    """The whole run in ``directory``. Raises AssertionError."""
    port = free_port()
    with surviving_stack(directory, "full", f"--admin-port={port}", engines=ENGINES, blocks=2048) as stack:
        operated = Operated(stack, port)
        chaos = Chaos(stack, operated, seed)
        chaos.run(minutes)
        chaos.finish()
        operated.admin.close()
        return chaos.report(minutes, seed)


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="End engines at random under streams.")
    parser.add_argument("--minutes", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--save", help="write NAME.md and NAME.json under bench/results")
    arguments = parser.parse_args()
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="quire-streams-") as directory:
        report = run(arguments.minutes, arguments.seed, Path(directory))
    report.write(arguments.save)
    report.show(as_json=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())
