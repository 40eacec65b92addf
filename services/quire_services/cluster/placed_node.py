"""A node as its controller keeps it, from the moment it is wanted until it is given up or has ended."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from .node_stack import StackReport
from .nodes import DRAINING, SERVING, STARTING, ClusterNode
from .placement import Placement


@dataclass(slots=True)
class PlacedNode:
    """One.

    Attributes:
        number: in the order in which nodes were wanted.
        report: what its stack said last.
        changed, heard: when its state changed, and when it said anything (monotonic).
        served: whether it ever did.
        leaves: when its stack is to be asked to end; None while it stays. ``told``: that was done.
    """

    name: str
    placement: Placement
    number: int
    report: StackReport = field(default_factory=lambda: StackReport(STARTING))
    changed: float = field(default_factory=time.monotonic)
    heard: float = field(default_factory=time.monotonic)
    served: bool = False
    leaves: float | None = None
    told: bool = False

    def as_seen(self, now: float) -> ClusterNode:
        """As others see it."""
        report = self.report
        state = DRAINING if self.leaves is not None else report.state if report.state == SERVING else STARTING
        since = round(now - self.changed, 1)
        return ClusterNode(self.name, report.url, report.admin_url, state, self.placement.machine, since)
