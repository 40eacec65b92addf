"""``quire bench control``: what the control plane costs, ours over its real socket, the peer's in process.

Both sides stay alive and are asked for the same case in turn. CPU time is what is compared: ours is that of the whole
engine process and of the whole kvstore process together, with every I/O thread; the peer's that of its process. Wall
times are shown beside it. A first round warms both sides and is thrown away.
"""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import Any

from bench.processes.kvprocess import KVProcess
from bench.processes.side import PEERS, Side, peer_python
from bench.report.figures import Report, machine, median, percentile, say, table

from .clients import control_side, measure_clients

Case = dict[str, Any]
HEADER = [
    "case", "ours CPU us", "engine", "kvstore", "messages", "wall p50", "p99",
    "peer CPU us", "peer wall p50", "p99", "ours / peer (CPU)",
]  # fmt: skip
CLIENTS_HEADER = ["clients", "steps/s", "against one", "messages/s", "kvstore CPU us / message", "step p50 us", "p99"]
CLIENT_COSTS = ("kvstore_cpu_us_per_message", "step_p50_us", "step_p99_us")


def cases(quick: bool) -> dict[str, Case]:
    """What is measured, by the name it has in the table."""
    lengths = (64,) if quick else (1024, 2200, 8192, 32768)
    counts = (4,) if quick else (1, 64, 256, 1024)
    found: dict[str, Case] = {}
    for tokens in lengths:
        for cached in (False, True):
            name = f"admit {tokens} {'cached' if cached else 'cold'}"
            found[name] = {"case": "admit", "tokens": tokens, "cached": cached, "repeat": 8}
    for count in counts:
        found[f"decode step, {count} sequences"] = {
            "case": "decode", "sequences": count, "steps": 16, "prompt": 32 if quick else 512,
        }  # fmt: skip
    tokens = lengths[0] if quick else 2200
    found[f"fork 16 off {tokens}"] = {"case": "fork", "tokens": tokens, "children": 16, "repeat": 4}
    for tokens in lengths:
        found[f"free {tokens}"] = {"case": "free", "tokens": tokens, "repeat": 8}
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the bench."""
    parser.add_argument("--peer", choices=("vllm",), help="measure this peer in the same run")
    parser.add_argument("--pairs", type=int, default=5, help="interleaved pairs (default: 5)")
    add_case_arguments(parser)


def add_case_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of a bench that measures ``cases``."""
    parser.add_argument("--blocks", type=int, default=131_072, help="blocks of either pool (default: 131072)")
    parser.add_argument("--block-size", type=int, default=16, help="tokens in a block (default: 16)")
    parser.add_argument("--quick", action="store_true", help="tiny sizes, to see that it runs")
    parser.add_argument("--only", default="", metavar="WORD", help="only the cases whose name contains this")


def run(arguments: argparse.Namespace) -> Report:
    """Measure everything; returns the report."""
    report = Report("control", {k: getattr(arguments, k) for k in ("peer", "pairs", "blocks", "block_size")})
    chosen = {name: case for name, case in cases(arguments.quick).items() if arguments.only in name}
    with _sides(arguments, report) as (ours, peer):
        samples = {name: _pairs(name, case, ours, peer, arguments.pairs) for name, case in chosen.items()}
    report.figures["cases"] = {name: case_summary(pairs) for name, pairs in samples.items()}
    report.tables.append(("One operation, microseconds", _table(report.figures["cases"])))
    if not arguments.only or arguments.only in "clients":
        steps, sequences = (32, 4) if arguments.quick else (256, 64)
        clients = measure_clients(arguments.blocks, arguments.block_size, arguments.pairs, steps, sequences)
        report.figures["clients"] = clients
        report.tables.append((f"Client processes, decode steps of {sequences} sequences each", _clients_table(clients)))
    report.notes += NOTES if arguments.peer else NOTES[:2]
    report.machine["load_1m_after"] = machine()["load_1m"]
    return report


NOTES = [
    "CPU is the mean of one operation: ours engine process + kvstore process, all threads; medians over the pairs.",
    "`admit cold` builds the request, hashes, looks up and allocates; `+ index` adds fill marks and seals of the "
    "prompt in a second message, which the engine sends with its next step.",
    "vLLM indexes blocks inside allocate_slots, so `admit cold + index` is the comparison in its favour.",
    "vLLM has no fork: its 16 branches are requests that hit the prompt's blocks.",
]


@contextlib.contextmanager
def _sides(arguments: argparse.Namespace, report: Report) -> Iterator[tuple[Side, Side | None]]:
    """Both sides, started."""
    with contextlib.ExitStack() as stack:
        kvstore = stack.enter_context(KVProcess(arguments.blocks, arguments.block_size))
        ours = stack.enter_context(control_side("ours", kvstore))
        peer = None
        if arguments.peer:
            program = str(PEERS.parent / "bench" / "control" / "vllm_side.py")
            peer = stack.enter_context(Side("vllm", [str(peer_python("vllm")), program], {"VLLM_TARGET_DEVICE": "cpu"}))
            facts = peer.ask(case="start", blocks=arguments.blocks, block_size=arguments.block_size)
            report.settings["peer_settings"] = facts
        yield ours, peer
        ours.ask(case="stop")


def _pairs(name: str, case: Case, ours: Side, peer: Side | None, pairs: int) -> list[dict[str, Any]]:
    """Samples of ``pairs`` rounds, ours then the peer's, after a round that is thrown away."""
    say(f"{name} ...")
    found = []
    for _ in range(pairs + 1):
        sample = {"ours": ours.ask(**case)}
        if peer:
            sample["peer"] = peer.ask(**case)
        found.append(sample)
    return found[1:]


def case_summary(samples: list[dict[str, Any]]) -> dict[str, Any]:
    """Medians over the pairs; ``ratio`` is ours / peer, taken within each pair."""
    ours = [sample["ours"] for sample in samples]
    found: dict[str, Any] = {"ours": _medians(ours)}
    indexing = [sample["then_index"] for sample in ours if "then_index" in sample]
    if indexing:
        found["ours_index"] = _medians(indexing)
    if "peer" in samples[0]:
        found["peer"] = _medians([sample["peer"] for sample in samples])
        found["ratio"] = median(sample["ours"]["cpu_us"] / sample["peer"]["cpu_us"] for sample in samples)
        if indexing:
            found["ratio_with_index"] = median(
                (sample["ours"]["cpu_us"] + sample["ours"]["then_index"]["cpu_us"]) / sample["peer"]["cpu_us"]
                for sample in samples
            )
    return found


def _medians(sides: list[dict[str, Any]]) -> dict[str, float]:
    keys = [key for key, value in sides[0].items() if isinstance(value, float | int)]
    walls = [wall for side in sides for wall in side["wall_us"]]
    found = {key: median(float(side[key]) for side in sides) for key in keys}
    return {**found, "wall_p50_us": median(walls), "wall_p99_us": percentile(walls, 0.99)}


def _table(figures: dict[str, Any]) -> str:
    rows: list[list[object]] = []
    for name, found in figures.items():
        peer = found.get("peer", {})
        theirs = [peer.get(key) for key in ("cpu_us", "wall_p50_us", "wall_p99_us")]
        rows.append([name, *_ours(found["ours"]), *theirs, found.get("ratio")])
        if "ours_index" in found:
            rows.append(["+ index", *_ours(found["ours_index"]), None, None, None, found.get("ratio_with_index")])
    return table(rows, HEADER)


def _ours(side: dict[str, float]) -> list[float]:
    keys = ("cpu_us", "engine_cpu_us", "kvstore_cpu_us", "messages", "wall_p50_us", "wall_p99_us")
    return [side[key] for key in keys]


def _clients_table(clients: list[dict[str, Any]]) -> str:
    keys = ("clients", "steps_per_s", "against_one", "messages_per_s", *CLIENT_COSTS)
    return table([[row[key] for key in keys] for row in clients], CLIENTS_HEADER)
