"""``quire bench long-prompts``: a client's steps while another one allocates, seals, forks and frees very long prompts.

Ids only, one kvstore, two processes' worth of clients: one decodes (a step message after the other), the other repeats
the life of a prompt of ``--tokens`` tokens in a pool that is full of cache, so that every allocation evicts. The steps
are timed by the client, idle neighbour first. What a step may have to wait is the longest turn of the neighbour's ops:
those are measured too, in CPU time and in one process (``turns``), for a busy machine makes round trips long as well.
"""

from __future__ import annotations

import argparse
import json
import os
import secrets
import select
import subprocess
import sys
import time
from collections import defaultdict
from pathlib import Path

from bench.processes.kvprocess import KVProcess
from bench.processes.side import ROOT
from bench.report.figures import Report, percentile, say, table
from quire_kv import KVClient
from quire_kvstore.blocks.policies import POLICIES
from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32

from .turns import longest_turns

BLOCK_SIZE, SEQUENCES, PORTION, PROMPTS = 16, 16, 256, 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--tokens", type=int, default=100_000, help="of the neighbour's prompts (default: 100000)")
    parser.add_argument("--blocks", type=int, default=40_000, help="of the pool (default: 40000)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each of the two measurements (default: 10)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")


class Neighbour:
    """Long prompts, one after the other, in a process of its own: this module, run with DIRECTORY and TOKENS."""

    def __init__(self, directory: Path, tokens: int) -> None:
        command = [sys.executable, "-m", "bench.neighbours.long_prompts", str(directory), str(tokens)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self._process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def end(self) -> dict[str, list[float]]:
        """Stop after the present prompt; what its ops took, by op (ms)."""
        said, _ = self._process.communicate("")
        found: dict[str, list[float]] = json.loads(said)
        return found


def neighbour(directory: str, tokens: int) -> dict[str, list[float]]:
    """Live long prompts until stdin ends."""
    ms: dict[str, list[float]] = defaultdict(list)
    with KVClient(directory, name="neighbour", timeout=30.0) as client:
        number = 1
        while not select.select([sys.stdin], [], [], 0)[0]:
            _live(client, number, tokens // BLOCK_SIZE, ms)
            number += 4
    return ms


def _live(client: KVClient, number: int, blocks: int, ms: dict[str, list[float]]) -> None:
    digests = secrets.token_bytes(32 * blocks)
    children = [number + 1, number + 2, number + 3]

    def timed(name: str, step: m.Step) -> None:
        began = time.perf_counter()
        client.step(step)
        ms[name].append((time.perf_counter() - began) * 1000)

    timed("allocate", m.Step(allocates=(m.Allocate(number, "long", blocks * BLOCK_SIZE + 1, digests),)))
    timed("fill", m.Step(fills=pack_u32([number, blocks * BLOCK_SIZE + 1])))
    for first in range(0, blocks, PORTION):
        names = digests[32 * first : 32 * (first + PORTION)]
        timed(f"seal {PORTION} blocks", m.Step(seals=(m.Seal(number, first, names),)))
    timed("fork 3", m.Step(forks=(m.Fork(number, pack_u32(children), blocks * BLOCK_SIZE),)))
    timed("free 3 forks", m.Step(releases=pack_u32(children)))
    timed("free", m.Step(releases=pack_u32([number])))


def run(arguments: argparse.Namespace) -> Report:
    """Measure; returns the report."""
    tokens = 640 if arguments.quick else arguments.tokens
    blocks = 512 if arguments.quick else arguments.blocks
    seconds = 0.3 if arguments.quick else arguments.seconds
    report = Report("long-prompts", {"tokens": tokens, "blocks": blocks, "block_size": BLOCK_SIZE, "seconds": seconds})
    with KVProcess(blocks, BLOCK_SIZE) as kvstore, KVClient(kvstore.directory, name="decodes") as client:
        for number in range(SEQUENCES):
            client.step(m.Step(allocates=(m.Allocate(number, "short", BLOCK_SIZE),)))
        say("filling the pool ...")
        busy = Neighbour(kvstore.directory, tokens)
        while client.stats().counters["evictions"] < blocks // 4:
            time.sleep(0.05)
        busy.end()
        say("steps alone ...")
        alone = _steps(client, seconds)
        busy = Neighbour(kvstore.directory, tokens)
        while len(client.stats().sessions) < 2:
            time.sleep(0.05)
        say("steps beside the neighbour ...")
        beside = _steps(client, seconds)
        ops = busy.end()
    for name, found in {"step alone": alone, "step beside": beside, **ops}.items():
        report.figures[name] = {
            "count": len(found),
            "p50_ms": percentile(found, 0.5),
            "p99_ms": percentile(found, 0.99),
        }
    rows: list[list[object]] = [[name, *figures.values()] for name, figures in report.figures.items()]
    report.tables.append(("Round trips, ms", table(rows, ["what", "count", "p50", "p99"])))
    say("turns ...")
    for policy in POLICIES:
        _turns(report, policy, blocks, tokens, 3 if arguments.quick else PROMPTS)
    return report


def _turns(report: Report, policy: str, blocks: int, tokens: int, prompts: int) -> None:
    """The longest turn of each request, with one eviction policy."""
    rows: list[list[object]] = []
    for name, found in longest_turns(policy, blocks, tokens, prompts).items():
        figures = {"count": len(found), "p50_ms": percentile(found, 0.5), "max_ms": max(found)}
        report.figures[f"turns, {policy}: {name}"] = figures
        rows.append([name, *figures.values()])
    report.tables.append(
        (f"The longest turn of a request, CPU ms, {policy}", table(rows, ["op", "count", "p50", "max"]))
    )


def _steps(client: KVClient, seconds: float) -> list[float]:
    """Round trips of a step that grows every sequence a little and says so, as a decoding batch does (ms)."""
    found: list[float] = []
    end = time.perf_counter() + seconds
    while (began := time.perf_counter()) < end:
        client.step(m.Step(extends=pack_u32([n for i in range(SEQUENCES) for n in (i, BLOCK_SIZE)])))
        found.append((time.perf_counter() - began) * 1000)
        time.sleep(0.002)
    return found


if __name__ == "__main__":
    print(json.dumps(neighbour(sys.argv[1], int(sys.argv[2]))))
