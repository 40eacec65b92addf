"""Losses: a node of a cluster that goes in one moment, and what happens until as many serve as before."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .local_cluster import LocalCluster
from .switched_off import has_head, machine_of, switch_off

Way = Callable[[Iterable[int]], None]


@dataclass(frozen=True, slots=True)
class Loss:
    """One.

    Attributes:
        node: the one that went, as ``status`` listed it; run_dir: where it ran.
        at: when, monotonic.
        given_up_s, began_s, full_s: until the controller gave it up, until its successor's actor began, and until as
            many nodes as before took requests.
    """

    node: dict[str, Any]
    run_dir: Path
    at: float
    given_up_s: float
    began_s: float
    full_s: float


def lose_node(cluster: LocalCluster, way: Way, limit_s: float) -> Loss:
    """Lose one that is not beside Ray's head, and wait for full strength. Raises TimeoutError."""
    nodes = cluster.nodes()
    of = {node["name"]: machine_of(cluster.run_dir(node["url"])) for node in nodes}
    lost = next(node for node in nodes if not has_head(of[node["name"]]))
    run_dir, processes = cluster.run_dir(lost["url"]), of[lost["name"]]
    known = set(cluster.states())
    at, wall = time.monotonic(), time.time()
    way(processes)
    try:
        given_up = cluster.wait(lambda: lost["name"] not in cluster.states(), limit_s)
        full = cluster.wait(lambda: _serving(cluster) - {lost["name"]} - known, limit_s)
        full = max(full, cluster.wait(lambda: len(_serving(cluster)) == len(nodes), limit_s))
    finally:
        switch_off(processes)  # what was only cut off
    (new,) = [node for node in cluster.nodes() if node["name"] not in known]
    began = (cluster.run_dir(new["url"]).parent / "owner").stat().st_mtime - wall
    return Loss(lost, run_dir, at, given_up - at, began, full - at)


def _serving(cluster: LocalCluster) -> set[str]:
    return {name for name, state in cluster.states().items() if state == "serving"}
