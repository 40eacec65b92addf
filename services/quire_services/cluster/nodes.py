"""Nodes as others see them: a name, where it answers, and whether it may be given work.

The list is a file that is replaced as a whole, for whatever stands in front of the nodes, ours or another's:

    {"nodes": [{"name": "node-1", "url": "http://10.0.0.5:8000", "state": "serving"}, ...]}

A node is in it while it serves, and while it drains, unless it never served: what is open there goes on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from quire_services.config.input_files import write_private

STARTING, SERVING, DRAINING = "starting", "serving", "draining"


@dataclass(frozen=True, slots=True)
class ClusterNode:
    """One node.

    Attributes:
        url: of its gateway, without a path; empty while it is starting.
        admin_url: of its admin API, on the loopback of its machine.
        state: starting, serving or draining.
        host: the machine, as Ray names it.
        since: seconds that it has been in this state.
    """

    name: str
    url: str
    admin_url: str
    state: str
    host: str = ""
    since: float = 0.0


def write_node_list(file: Path, nodes: Sequence[ClusterNode]) -> None:
    """Replace the list. Raises OSError."""
    listed = [node for node in nodes if node.state != STARTING and node.url]
    rows = [{"name": node.name, "url": node.url, "state": node.state} for node in listed]
    write_private(file, json.dumps({"nodes": rows}))
