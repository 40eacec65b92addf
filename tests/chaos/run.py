"""Chaos: real processes are killed and stopped at random for some minutes; what they must not do is checked all along.

    python -m tests.chaos.run --minutes 10 [--seed S] [--save NAME]

A kvstore and four engines that stamp and verify the whole arena (``engine``). Every second or so something happens to
one of them; how long the others then have to wait is measured. In the end the engines leave, and no block may be held
but what publications pin. ``--save`` writes NAME.md and NAME.json under bench/results.
"""

from __future__ import annotations

import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

from bench.report.figures import Report, percentile, table
from tests.chaos.cast import BLOCKS, ENVIRONMENT, GRACE_MS, LEASE_MS, PATIENCE_S, ChaosError, Member, Stage
from tests.chaos.engine import PUBLISHED, SIZE
from tests.support.waits import wait_for

ENGINES = 4
QUIET_S = 3.0
# What an action may take (s), after the time that it takes by design. On a machine that is shared it may be more.
DEAD_S, BACK_S, MARGIN_S = 1.0, 3.0, 1.0


class Chaos:
    """One run. ``slack`` multiplies what the actions may take."""

    def __init__(self, stage: Stage, seed: int, slack: float) -> None:
        self.stage, self.rng, self.slack = stage, random.Random(seed), slack
        self.seconds: defaultdict[str, list[float]] = defaultdict(list)
        self.quiet: list[float] = []
        self.flooded: list[float] = []

    def run(self, minutes: float) -> None:
        """Act until the time is over; everything must be at work again after each act. Raises ChaosError."""
        acts = [self.kill_engine] * 6 + [self.short_stop] * 4 + [self.long_stop] * 2 + [self.stop_until_fenced] * 2
        acts += [self.kill_kvstore] * 3 + [self.stop_kvstore] * 2 + [self.flood]
        once = [self.flood, self.kill_kvstore, self.long_stop, self.stop_until_fenced, self.stop_kvstore]
        self.stage.wait_for(self.stage.serving, "the engines work")
        end = time.monotonic() + 60 * minutes
        while time.monotonic() < end:
            time.sleep(self.rng.uniform(0.0, 1.5))
            self.stage.check()
            (once.pop() if once else self.rng.choice(acts))()
            self.stage.wait_for(self.stage.serving, "the engines work again")

    def _timed(self, what: str, limit: float, began: float) -> None:
        took = time.monotonic() - began
        self.seconds[what].append(took)
        if took > limit * self.slack:
            raise ChaosError(f"{what}: {took:.2f} s, and {limit * self.slack:.2f} s are allowed")

    def _victim(self) -> Member:
        return self.rng.choice(self.stage.engines)

    def kill_engine(self) -> None:
        """kill -9: what it held is back at once."""
        engine = self._victim()
        pid, began = engine.pid, time.monotonic()
        engine.send(signal.SIGKILL)
        wait_for(lambda: self.stage.session(pid) is None, "the dead engine's session is gone", PATIENCE_S)
        self._timed("killed engine: its blocks are back", DEAD_S, began)
        engine.gone()
        engine.start()

    def short_stop(self) -> None:
        """Shorter than the lease: nothing happens."""
        engine = self._victim()
        engine.send(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.05, 0.3 * LEASE_MS / 1000))
        engine.send(signal.SIGCONT)

    def long_stop(self) -> None:
        """Fenced, then killed, then reclaimed."""
        engine = self._victim()
        pid, began = engine.pid, time.monotonic()
        engine.send(signal.SIGSTOP)
        wait_for(lambda: self.stage.session(pid) is None, "the hung engine's session is gone", PATIENCE_S)
        self._timed("hung engine: its blocks are back", (LEASE_MS + GRACE_MS) / 1000 + MARGIN_S, began)
        engine.gone()
        engine.start()

    def stop_until_fenced(self) -> None:
        """It goes on after the fence, finds its lease over, says goodbye and attaches again; or is killed before."""
        engine = self._victim()
        pid, process = engine.pid, engine.process
        engine.send(signal.SIGSTOP)
        wait_for(lambda: (s := self.stage.session(pid)) is None or s.state == "fenced", "it is fenced", PATIENCE_S)
        began = time.monotonic()
        engine.send(signal.SIGCONT)
        # A session of this process that is ready is another one: it was fenced.
        wait_for(lambda: process.poll() is not None or self._ready(pid), "it is back", PATIENCE_S)
        if process.poll() is None:
            self._timed("fenced engine that goes on: attached again", 2 * MARGIN_S, began)
        else:
            engine.gone()
            engine.start()

    def _ready(self, pid: int) -> bool:
        session = self.stage.session(pid)
        return session is not None and session.state == "ready"

    def kill_kvstore(self) -> None:
        """kill -9: a new boot, and every engine is at work on it."""
        stats = wait_for(self.stage.stats, "the kvstore answers", PATIENCE_S)
        began = time.monotonic()
        self.stage.kvstore.kill()
        self.stage.kvstore.start(wait=False)
        self.stage.wait_for(lambda: self.stage.serving(stats.boot), "all engines are back")
        self._timed("killed kvstore: all engines at work", BACK_S, began)

    def stop_kvstore(self) -> None:
        """It stands still, at times for longer than the lease, and holds it against no session."""
        before = wait_for(self.stage.stats, "the kvstore answers", PATIENCE_S)
        self.stage.kvstore.process.send_signal(signal.SIGSTOP)
        time.sleep(self.rng.uniform(0.2, 2.0 * LEASE_MS / 1000))
        began = time.monotonic()
        self.stage.kvstore.process.send_signal(signal.SIGCONT)
        self.stage.wait_for(self.stage.serving, "all engines work again")
        self._timed("stopped kvstore: all engines at work", BACK_S, began)
        after = wait_for(self.stage.stats, "the kvstore answers", PATIENCE_S)
        if after.counters["killed"] != before.counters["killed"]:
            raise ChaosError("an engine was killed because the kvstore had stood still")

    def flood(self) -> None:
        """A client is stopped with ten thousand requests queued; the others' steps, beside those just before."""
        time.sleep(QUIET_S)
        began = time.monotonic()
        self.quiet += self._steps(began - QUIET_S, began)
        command = [sys.executable, "-m", "tests.chaos.flood", str(self.stage.run_dir)]
        with subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, text=True) as flooder:
            assert flooder.stdout is not None
            flooder.stdout.readline()
            began = time.monotonic()
            time.sleep(QUIET_S)
            self.flooded += self._steps(began, began + QUIET_S)
            flooder.kill()

    def _steps(self, first: float, last: float) -> list[float]:
        time.sleep(0.6)  # the last lines
        return [ms for engine in self.stage.engines for when, ms in list(engine.steps) if first <= when <= last + 0.5]

    def finish(self) -> None:
        """All engines leave: nothing is held but what is pinned, and nothing is in quarantine."""
        self.stage.check()
        self.stage.end_engines()
        stats = wait_for(self.stage.stats, "the kvstore answers", PATIENCE_S)
        ready = sum(1 for record in stats.publications if record.state == "ready")
        held = ready * -(-len(PUBLISHED) // SIZE)
        if (stats.blocks["held"], stats.blocks["quarantined"]) != (held, 0):
            raise ChaosError(f"a leak: {stats.blocks}, and {held} are pinned")
        bad = self.stage.kvstore.events("internal_error")
        if bad or stats.counters["internal_errors"]:
            raise ChaosError(f"exceptions in the kvstore: {bad[:1]}")
        if self.stage.kvstore.end() != 0:
            raise ChaosError("the kvstore did not end cleanly")
        left = [path.name for path in Path("/dev/shm").glob("quire-*") if path.name in self._named()]
        if left:
            raise ChaosError(f"left in /dev/shm: {left}")

    def _named(self) -> str:
        roster = self.stage.run_dir / "arena.json"
        return roster.read_text() if roster.exists() else ""

    def report(self, minutes: float, seed: int) -> Report:
        """The figures."""
        settings = {"minutes": minutes, "seed": seed, "engines": ENGINES, "blocks": BLOCKS, "lease_ms": LEASE_MS}
        report = Report("chaos", settings | {"fence_grace_ms": GRACE_MS, "slack": self.slack})
        report.command = f"make soak MINUTES={minutes:g}"
        limits = {"killed engine": f"{DEAD_S:.0f}", "killed kvstore": f"{BACK_S:.0f}", "hung engine": "1.5 + 1"}
        rows: list[list[object]] = []
        for what, found in sorted(self.seconds.items()):
            limit = next((limit for name, limit in limits.items() if what.startswith(name)), "")
            rows.append([what, len(found), percentile(found, 0.5), max(found), limit])
        header = ["after", "times", "median, s", "longest, s", "allowed, s"]
        report.tables.append(("How long the others waited", table(rows, header)))
        totals = {key: sum(e.totals.get(key, 0) for e in self.stage.engines) for key in self.stage.engines[0].totals}
        events = defaultdict(int)
        for event in self.stage.kvstore.events():
            events[event["event"]] += 1
        facts: list[list[object]] = [[key.replace("_", " "), value] for key, value in totals.items()]
        facts += [[f"log: {name}", count] for name, count in sorted(events.items())]
        facts += [["foreign bytes", 0], ["blocks leaked", 0], ["exceptions in the kvstore", 0]]
        report.tables.append(("What was done, and found", table(facts, ["what", "count"])))
        if self.quiet and self.flooded:
            rows = [[name, len(v), percentile(v, 0.5), percentile(v, 0.99)] for name, v in self._floods()]
            header = ["a step of the others", "steps", "p50, ms", "p99, ms"]
            report.tables.append(("A client stopped with 10,000 requests queued", table(rows, header)))
        report.figures = {"seconds": dict(self.seconds), "totals": totals, "log": dict(events)}
        report.figures["step_ms"] = {n: [percentile(v, 0.5), percentile(v, 0.99)] for n, v in self._floods() if v}
        return report

    def _floods(self) -> list[tuple[str, list[float]]]:
        return [("just before", self.quiet), ("while it is stopped", self.flooded)]


def run(minutes: float, seed: int, slack: float, directory: Path) -> Report:
    """The whole run in ``directory``. Raises ChaosError."""
    run_dir = directory / "run"
    run_dir.mkdir(mode=0o700)
    stage = Stage(run_dir, ENGINES, seed)
    try:
        chaos = Chaos(stage, seed, slack)
        chaos.run(minutes)
        chaos.finish()
        return chaos.report(minutes, seed)
    finally:
        stage.close()


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Kill and stop real processes at random.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, default=random.randrange(10**6))
    parser.add_argument("--slack", type=float, default=1.0, help="what the limits are multiplied with")
    parser.add_argument("--save", help="write NAME.md and NAME.json under bench/results")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # and leave no process behind
    print(f"seed {arguments.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="quire-chaos-") as directory:
        report = run(arguments.minutes, arguments.seed, arguments.slack, Path(directory))
    report.write(arguments.save)
    report.show(as_json=False)
    report.show(as_json=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
