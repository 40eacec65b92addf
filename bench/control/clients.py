"""Several client processes on one kvstore: does it serve them without costing more a message?

Each client is a session of its own whose sequences have their prompts; it runs decode steps as fast as it can. Steps of
all clients in a second, and the kvstore's CPU time a message, are taken over the time in which they run. All clients
stay attached; those not measured are idle.
"""

from __future__ import annotations

import contextlib
import sys
from typing import Any

from bench.processes.kvprocess import KVProcess, cpu_ns
from bench.processes.side import ROOT, Side
from bench.report.figures import median, percentile, say

COUNTS = (1, 2, 4, 8)


def control_side(name: str, kvstore: KVProcess) -> Side:
    """Our client of the control benches, on that kvstore."""
    # With PYTHONSAFEPATH set the working directory is not on the path of a child: say where bench/ lies.
    command = [sys.executable, "-m", "bench.control.quire_side", str(kvstore.directory), str(kvstore.pid)]
    return Side(name, command, {"PYTHONPATH": str(ROOT)})


def measure_clients(blocks: int, block_size: int, pairs: int, steps: int, sequences: int) -> list[dict[str, Any]]:
    """One row a number of clients: medians over ``pairs`` rounds, in which the numbers of clients take turns."""
    samples: dict[int, list[dict[str, float]]] = {count: [] for count in COUNTS}
    with contextlib.ExitStack() as stack:
        kvstore = stack.enter_context(KVProcess(blocks, block_size))
        sides = [stack.enter_context(control_side(f"client {i}", kvstore)) for i in range(max(COUNTS))]
        for number in range(pairs + 1):
            say(f"clients, round {number} ...")
            for count in COUNTS:
                sample = _sample(sides[:count], kvstore.pid, steps, sequences)
                if number:
                    samples[count].append(sample)
        for side in sides:
            side.ask(case="stop")
    one = median(sample["steps_per_s"] for sample in samples[1])
    rows = []
    for count, found in samples.items():
        row: dict[str, Any] = {key: median(sample[key] for sample in found) for key in found[0]}
        rows.append({"clients": count, **row, "against_one": row["steps_per_s"] / one})
    return rows


def _sample(sides: list[Side], kvstore_pid: int, steps: int, sequences: int) -> dict[str, float]:
    for side in sides:
        side.ask(case="prepare", sequences=sequences, prompt=64)
    cpu = cpu_ns(kvstore_pid)
    for side in sides:
        side.send(case="steps", steps=steps)
    answers = [side.answer() for side in sides]
    spent = cpu_ns(kvstore_pid) - cpu
    for side in sides:
        side.ask(case="drop")
    walls = [wall for answer in answers for wall in answer["wall_us"]]
    seconds = max(answer["total_wall_us"] for answer in answers) / 1e6
    messages = sum(answer["messages"] * steps for answer in answers)
    return {
        "steps_per_s": len(sides) * steps / seconds,
        "messages_per_s": messages / seconds,
        "kvstore_cpu_us_per_message": spent / 1000 / messages,
        "step_p50_us": median(walls),
        "step_p99_us": percentile(walls, 0.99),
    }
