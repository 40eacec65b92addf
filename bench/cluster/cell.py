"""Cell: one number of nodes under one router, measured; rounds of several seeds are pooled.

    warm | steady | lose 1 % | lose 10 % | publish     and a twin without losses

Everything in ``figures`` is of virtual time, and the same for the same seed; ``cpu`` is this machine's.
"""

from __future__ import annotations

import contextlib
import gc
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from bench.report.figures import percentile

from .cluster_run import ClusterRun, Served, Setup
from .measures import between, hit_rate, mean_ttft, recovery, skew
from .nodes.event_stream import Sent
from .routing.kv_router import KvRouter

LOSSES = (0.01, 0.10)


@dataclass(frozen=True, slots=True)
class Timeline:
    """Seconds: until what is measured is steady, and of each phase that follows."""

    warm: float = 60.0
    phase: float = 60.0

    @property
    def losses(self) -> list[float]:
        """When nodes are lost."""
        return [self.warm + self.phase * (1 + index) for index in range(len(LOSSES))]

    @property
    def publish(self) -> float:
        """When a prompt is published."""
        return self.losses[-1] + self.phase

    @property
    def end(self) -> float:
        """When it is over."""
        return self.publish + self.phase / 2


@dataclass(slots=True)
class _Rounds:
    """What the rounds have said so far.

    ``served`` and ``twins``: with losses and without. Of the steady phase: seconds that each node was ``busy``, its
    requests (``counts``), and what streams told (``sent``). ``peaks``: the busiest second's bytes of all streams, then
    and after a prompt was published.
    """

    served: list[Served] = field(default_factory=list)
    twins: list[Served] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)
    counts: list[float] = field(default_factory=list)
    sent: Sent = field(default_factory=Sent)
    peaks: list[list[int]] = field(default_factory=lambda: [[], []])
    ready_s: list[float] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    moved: list[int] = field(default_factory=list)
    waiting: int = 0
    names: int = 0
    blocks: int = 0
    orphans: int = 0
    cpu: dict[str, float] = field(default_factory=lambda: {"run": 0.0, "index": 0.0, "choice": 0.0, "checks": 0.0})
    told: int = 0


def measure_cell(setup: Setup, timeline: Timeline, rounds: int) -> tuple[dict[str, Any], dict[str, float]]:
    """Run a cell; returns its figures, and CPU seconds of this machine."""
    found, began = _Rounds(), time.process_time()
    for number in range(rounds):
        one = replace(setup, seed=1000 * setup.seed + number)
        for play in (_undisturbed, _disturbed):
            with _few_collections():
                play(one, timeline, found)
    found.cpu["run"] = time.process_time() - began
    return _figures(setup, timeline, rounds, found), _cpu(found)


@contextlib.contextmanager
def _few_collections() -> Iterator[None]:
    """A thousand stores are millions of objects: to look through them for garbage takes longer than all else."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        gc.collect()


def _undisturbed(setup: Setup, timeline: Timeline, found: _Rounds) -> None:
    """The twin; what is steady is measured here."""
    run, (start, end) = ClusterRun(setup, timeline.end), (timeline.warm, timeline.losses[0])
    run.run(start)
    found.sent.add(run.sent(), -1)
    before = run.busy_s()
    run.run(end)
    found.sent.add(run.sent())
    found.busy += [after - one for after, one in zip(run.busy_s(), before, strict=True)]
    found.peaks[0].append(max(run.bytes_in_second[second] for second in range(int(start), int(end))))
    if isinstance(run.router, KvRouter):
        found.names += run.router.index.names
        found.blocks += len(run.router.index)
    run.run(timeline.end)
    counts = Counter(one.node for one in between(run.served, start, end))
    found.counts += [float(counts[number]) for number in range(setup.nodes)]
    found.twins += run.served
    _finish(run, found)


def _disturbed(setup: Setup, timeline: Timeline, found: _Rounds) -> None:
    """The run in which nodes are lost, and in which a prompt is published to all at once."""
    run, lost, moved = ClusterRun(setup, timeline.end), [], []
    for at, share in zip(timeline.losses, LOSSES, strict=True):
        run.run(at)
        before = run.moved
        lost.append(len(run.lose(share)))
        moved.append(run.moved - before)
    run.run(timeline.publish)
    run.publish(run.traffic.published[::-1])
    run.run(timeline.end)
    found.lost, found.moved = _sum(found.lost, lost), _sum(found.moved, moved)
    ready = [node.prepared for node in run.nodes]
    found.ready_s += [at - timeline.publish for at in ready if at is not None and at >= timeline.publish]
    seconds = range(int(timeline.publish), int(timeline.end))
    found.peaks[1].append(max(run.bytes_in_second[second] for second in seconds))
    found.served += run.served
    _finish(run, found)


def _finish(run: ClusterRun, found: _Rounds) -> None:
    """All invariants of all stores, and what both runs of a round add to."""
    began = time.process_time()
    run.check()
    found.cpu["checks"] += time.process_time() - began
    found.waiting += run.arrived - len(run.served)
    found.told += run.sent().events
    if isinstance(run.router, KvRouter):
        found.orphans += run.router.index.orphans
        found.cpu["index"] += run.router.index_s
        found.cpu["choice"] += run.router.choice_s


def _sum(total: list[int], more: list[int]) -> list[int]:
    return [one + other for one, other in zip(total, more, strict=True)] if total else more


def _figures(setup: Setup, timeline: Timeline, rounds: int, found: _Rounds) -> dict[str, Any]:
    steady = between(found.twins, timeline.warm, timeline.losses[0])
    seconds, nodes = timeline.phase * rounds, setup.nodes
    ttfts = [one.ttft for one in steady] or [0.0]
    figures: dict[str, Any] = {
        "nodes": nodes,
        "router": setup.router,
        "rounds": rounds,
        "requests": len(found.twins) + len(found.served),
        "without_first_token": found.waiting,
        "hit_rate": hit_rate(steady),
        "ttft_s": {"mean": mean_ttft(steady), "p50": percentile(ttfts, 0.5), "p99": percentile(ttfts, 0.99)},
        "busy": sum(found.busy) / len(found.busy) / timeline.phase,
        "busy_skew": dict(zip(("max", "p99"), skew(found.busy), strict=True)),
        "requests_skew": dict(zip(("max", "p99"), skew(found.counts), strict=True)),
        "events": {
            "events_s_node": found.sent.events / seconds / nodes,
            "blocks_s_node": found.sent.blocks / seconds / nodes,
            "bytes_s_node": found.sent.bytes / seconds / nodes,
            "messages_s": found.sent.messages / seconds,
            "events_s": found.sent.events / seconds,
            "bytes_s": found.sent.bytes / seconds,
            "busiest_second_bytes": max(found.peaks[0]),
        },
        "index": {"names": found.names / rounds, "blocks": found.blocks / rounds, "orphans": found.orphans},
        "losses": [],
        "publish": {
            "ready_s": max(found.ready_s, default=None),
            "busiest_second_bytes": max(found.peaks[1]),
            "ttft": asdict(recovery(found.served, found.twins, timeline.publish, timeline.end, mean_ttft, -1)),
        },
    }
    for share, at, lost, moved in zip(LOSSES, timeline.losses, found.lost, found.moved, strict=True):
        until = at + timeline.phase
        figures["losses"].append(
            {
                "share": share,
                "nodes": lost / rounds,
                "moved": moved,
                "hit_rate": asdict(recovery(found.served, found.twins, at, until, hit_rate, 1)),
                "ttft": asdict(recovery(found.served, found.twins, at, until, mean_ttft, -1)),
            }
        )
    return figures


def _cpu(found: _Rounds) -> dict[str, float]:
    """CPU seconds of this machine: of both runs, of the router's index, of its choices, of checks; and their rates."""
    requests = len(found.served) + len(found.twins)
    return {
        **found.cpu,
        "index_us_an_event": 1e6 * found.cpu["index"] / max(1, found.told),
        "choice_us_a_request": 1e6 * found.cpu["choice"] / max(1, requests),
    }
