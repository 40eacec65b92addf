"""Controller: keeps as many stacks serving as are wanted, each on a machine of its own.

One detached actor on Ray's head node, which Ray starts again if it dies; what it must know then, the stacks' actors
remember. It looks at all of them twice a second:

    no answer for GIVEN_UP_S, actor dead, or its node dead  -> it is given up, another node takes its place at once
    more than are wanted                                -> the newest is drained: no new work, then its end
    fewer                                               -> resources are asked for on a node that has none of ours

A node that takes a place has a new name. A machine that was given up because it was silent is passed over for a while,
if another one is free: Ray takes it for alive for half a minute, and would place there. A stack that fails before it
was ever ready is tried again after a pause, with its reason kept for whoever asks; ``up`` gives up on that.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass

from .entrance_process import EntranceProcess
from .node_stack import STACK_FAILED, STACK_STOPPED, StackReport
from .nodes import SERVING, STARTING, ClusterNode
from .placed_node import PlacedNode
from .placement import ActorGone, Placement, alive_nodes, placed_before, remember, reports
from .stack_order import StackOrder

TURN_S = 0.5
REPORT_S = 0.5  # after which a turn goes on without a report
REMEMBER_S = 2.0
GIVEN_UP_S = 6.0  # of a stack whose node Ray still takes for alive
PASSED_OVER_S = 60.0  # of a node of Ray's whose stack was silent
LEAVES_S = 1.5  # between a node's word in the list that it drains, and its stack's end
PLACE_AGAIN_S = 5.0  # after a stack that failed and never served


@dataclass(frozen=True, slots=True)
class ClusterStatus:
    """How the cluster is.

    Attributes:
        wanted: how many nodes there are to be.
        nodes: those that there are.
        problem: why one is missing; empty if none is known.
        entrance: the address in front of all of them, empty if there is to be none; ``entrance_up``: whether it, if it
            is to be, answers.
    """

    wanted: int
    nodes: tuple[ClusterNode, ...]
    problem: str
    entrance: str = ""
    entrance_up: bool = True

    @property
    def serving(self) -> int:
        """How many can be given work."""
        return sum(node.state == SERVING for node in self.nodes)


class Controller:
    """One cluster's. Args: ``cluster``: its name."""

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._lock = threading.Lock()
        self._order: StackOrder | None = None
        self._wanted, self._next, self._problem, self._not_before = 0, 1, "", 0.0
        self._members: list[PlacedNode] = []
        self._silent: dict[str, float] = {}  # nodes of Ray's, and until when they are passed over
        self._entrance: EntranceProcess | None = None
        self._take_up()
        threading.Thread(target=self._follow, name="controller", daemon=True).start()

    # --- what is asked of it -----------------------------------------------------------------------------------

    def apply(self, order: StackOrder, nodes: int) -> str:
        """Want this; why not, if other settings run."""
        with self._lock:
            if self._order is not None and self._members and self._order.digest != order.digest:
                return "it runs with other settings, and only the number of nodes can change: take it down first"
            self._order = order
        self.scale(nodes)
        return ""

    def scale(self, nodes: int) -> None:
        """Want so many."""
        with self._lock:
            self._wanted, self._problem, self._not_before = nodes, "", 0.0
            placements = [member.placement for member in self._members]
        remember(placements, nodes, REMEMBER_S)

    def status(self) -> ClusterStatus:
        """How it is."""
        with self._lock:
            it = self._entrance
            where, up = (it.url, it.up) if it else ("", self._order is None or self._order.entrance is None)
            return ClusterStatus(self._wanted, tuple(self.nodes()), self._problem, where, up)

    def end(self) -> None:
        """Want nothing any more; to be asked when no node is left."""
        self._order, entrance = None, self._entrance
        if entrance:
            entrance.stop()

    def nodes(self) -> list[ClusterNode]:
        """All nodes; one that waits for a machine has none yet."""
        now = time.monotonic()
        return [member.as_seen(now) for member in self._members]

    # --- one turn ----------------------------------------------------------------------------------------------

    def _follow(self) -> None:
        while True:
            began = time.monotonic()
            try:
                self.turn()
            except Exception as error:  # of Ray, whose next answer may be another
                self._problem = f"{type(error).__name__}: {error}"
                print(f"controller: {self._problem}", flush=True)  # noqa: T201  # Ray keeps it
            time.sleep(max(0.0, TURN_S - (time.monotonic() - began)))

    def turn(self) -> None:
        """Look once, and act once."""
        said = reports([member.placement for member in self._members], REPORT_S)
        for member in self._members:
            self._take(member, said.get(member.placement))
        alive = alive_nodes()
        for member in list(self._members):
            self._judge(member, alive)
        self._drain_surplus()
        self._place_missing(alive)
        self._keep_entrance()
        serving = sum(member.report.state == SERVING for member in self._members)
        if self._entrance and self._entrance.reason:
            self._problem = f"entrance: {self._entrance.reason}"
        elif serving == len(self._members) == self._wanted:
            self._problem = ""  # it is over

    def _keep_entrance(self) -> None:
        wanted = self._order.entrance if self._order else None
        if self._entrance and self._entrance.order != wanted:
            self._entrance.stop()
            self._entrance = None
        if wanted and not self._entrance:
            self._entrance = EntranceProcess(self._cluster, wanted)
        if self._entrance:
            self._entrance.keep(self.nodes())

    def _take(self, member: PlacedNode, report: StackReport | Exception | None) -> None:
        now = time.monotonic()
        if isinstance(report, StackReport):
            member.heard = now
            if report.state != member.report.state:
                member.changed = now
            member.report, member.served = report, member.served or report.state == SERVING
        elif isinstance(report, ActorGone):
            member.report = StackReport(STACK_FAILED, reason=str(report))

    def _judge(self, member: PlacedNode, alive: dict[str, str]) -> None:
        """Give up on what is gone, or has ended."""
        now, placed = time.monotonic(), member.placement
        if placed.actor is None:
            return
        silent = now - member.heard > GIVEN_UP_S and member.report.state != STARTING
        if placed.ray_node not in alive or silent:
            self._silent[placed.ray_node] = now + PASSED_OVER_S
            self._release(member, f"{member.name}: its machine {placed.machine} does not answer")
        elif member.report.state == STACK_FAILED:
            if not member.served:
                self._not_before = now + PLACE_AGAIN_S
            self._release(member, f"{member.name} on {placed.machine}: {member.report.reason}")
        elif member.report.state == STACK_STOPPED:
            self._release(member, "")

    def _release(self, member: PlacedNode, problem: str) -> None:
        if problem:
            print(f"controller: {problem}", flush=True)  # noqa: T201
            self._problem = problem
        with self._lock:
            self._members.remove(member)
        member.placement.release()

    def _drain_surplus(self) -> None:
        """The newest go first, those that do not serve before all others."""
        stay = [member for member in self._members if member.leaves is None]
        surplus = len(stay) - self._wanted
        for member in sorted(stay, key=lambda m: (m.report.state == SERVING, -m.number))[: max(0, surplus)]:
            if member.placement.actor is None:
                self._release(member, "")
            else:
                member.leaves = time.monotonic() + (LEAVES_S if member.report.state == SERVING else 0)
                member.changed = time.monotonic()
        for member in self._members:
            if member.leaves is not None and not member.told and time.monotonic() >= member.leaves:
                member.told = True
                member.placement.drain()

    def _place_missing(self, alive: dict[str, str]) -> None:
        order = self._order
        if order is None or time.monotonic() < self._not_before:
            return
        taken = self._taken(alive)
        waiting = [member for member in self._members if member.placement.actor is None]
        if not waiting and sum(member.leaves is None for member in self._members) < self._wanted:
            member = PlacedNode(f"node-{self._next}", Placement(self._cluster, f"node-{self._next}"), self._next)
            self._next += 1
            with self._lock:
                if sum(m.leaves is None for m in self._members) < self._wanted:  # nobody has asked for less meanwhile
                    self._members.append(member)
                    waiting = [member]
        for member in waiting:
            member.placement.ask(order, taken)
            if member.placement.placed(TURN_S):
                member.heard = member.changed = time.monotonic()
                member.placement.start(order, self._wanted)
            elif time.monotonic() - member.changed > PLACE_AGAIN_S:
                self._problem = f"no machine yet for {member.name}: {_amounts(order)}, and no other node of ours there"

    def _taken(self, alive: dict[str, str]) -> set[str]:
        """Nodes of Ray's where no other stack is to be placed."""
        now, ours = time.monotonic(), {member.placement.ray_node for member in self._members}
        self._silent = {node: until for node, until in self._silent.items() if node in alive and now < until}
        taken = ours & alive.keys()
        return taken | self._silent.keys() if alive.keys() - taken - self._silent.keys() else taken

    def _take_up(self) -> None:
        """Go on with what an earlier life has placed."""
        for name in placed_before(self._cluster):
            number = int(name.partition("-")[2])
            self._next = max(self._next, number + 1)
            placement = Placement(self._cluster, name)
            if placement.find():
                self._members.append(PlacedNode(name, placement, number))
                self._order, self._wanted = placement.memory(REMEMBER_S) or (self._order, self._wanted)


def _amounts(order: StackOrder) -> str:
    return ", ".join(f"{amount:g} {name}" for name, amount in order.resources.items())
