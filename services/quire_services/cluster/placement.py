"""Placement: one node's resources at Ray, and the actor that runs its stack there.

Each node has a placement group of its own, of one bundle, because a group cannot grow or shrink. That they are spread
over machines is said by label: the bundle may lie on no node of Ray's that has one already. The actor is detached, so
it lives on when the command that made the cluster has ended; it is not restarted by Ray, because the controller has to
replace a stack elsewhere anyway, and one way is enough.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import Any

from .node_stack import NodeStack, StackReport
from .stack_order import StackOrder

NAMESPACE = "quire"
# Ray gives its workers, and with them all that they start, the last place at every core: niceness 15. Where anything
# else computes, a stack would take minutes to load. This variable is Ray's own way to say otherwise, for one worker.
NOT_NICED = {"env_vars": {"RAY_worker_niceness": "0"}}
_ACTOR_THREADS = 4  # a report is answered while another one waits for a gateway


class ActorGone(Exception):
    """A stack's actor has ended; the message says how, in one line."""


def actor_name(cluster: str, node: str) -> str:
    """Of a node's stack."""
    return f"{cluster}/{node}"


class Placement:
    """One node's group and, once that is placed, its actor.

    Attributes:
        ray_node: the id of Ray's node; empty until it is placed.
        machine: its address.
        actor: the stack's; None until it is placed.
        question: a call that it has not answered yet.
    """

    def __init__(self, cluster: str, node: str) -> None:
        self._cluster, self._node = cluster, node
        self._name = actor_name(cluster, node)
        self._group: Any = None
        self._taken: set[str] = set()
        self.ray_node = self.machine = ""
        self.actor: Any = None
        self.question: Any = None

    def ask(self, order: StackOrder, taken: Collection[str]) -> None:
        """Ask for the resources, on none of these nodes of Ray's; asked already, anew if these are others now."""
        from ray.util.placement_group import placement_group

        if self._group is not None and set(taken) == self._taken:
            return
        self.release()
        self._taken = set(taken)
        elsewhere = [{"ray.io/node-id": f"!in({','.join(sorted(taken))})"}] if taken else None
        self._group = placement_group(
            [dict(order.resources)],
            strategy="STRICT_SPREAD",
            name=self._name,
            lifetime="detached",
            bundle_label_selector=elsewhere,
        )

    def placed(self, wait_s: float) -> bool:
        """Whether Ray has given the resources."""
        from ray.util.placement_group import placement_group_table

        if not self.ray_node and self._group.wait(wait_s):
            self.ray_node = next(iter(placement_group_table(self._group)["bundles_to_node_id"].values()))
            self.machine = alive_nodes().get(self.ray_node, "")
        return bool(self.ray_node)

    def start(self, order: StackOrder, wanted: int) -> None:
        """Start the stack there."""
        import ray
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        given = order.resources
        self.actor = (
            ray.remote(NodeStack)
            .options(
                name=self._name,
                namespace=NAMESPACE,
                lifetime="detached",
                num_cpus=given.get("CPU", 0),
                num_gpus=given.get("GPU", 0),
                memory=given.get("memory") or None,
                max_restarts=0,
                max_concurrency=_ACTOR_THREADS,
                runtime_env=NOT_NICED,
                scheduling_strategy=PlacementGroupSchedulingStrategy(self._group, 0),
            )
            .remote(self._node, order, wanted, self.machine)
        )

    def find(self) -> bool:
        """Take up one that an earlier controller has placed; whether it is there."""
        import ray
        from ray.util.placement_group import get_placement_group

        try:
            self.actor = ray.get_actor(self._name, NAMESPACE)
            self._group = get_placement_group(self._name)
        except ValueError:
            return False
        return self.placed(0)

    def memory(self, wait_s: float) -> tuple[StackOrder, int] | None:
        """What the stack's actor remembers for a controller that starts anew; None if it does not say."""
        import ray

        try:
            remembered: tuple[StackOrder, int] = ray.get(self.actor.memory.remote(), timeout=wait_s)
            return remembered
        except ray.exceptions.RayError:
            return None

    def drain(self) -> None:
        """Ask the stack to end in order."""
        self.actor.drain.remote()

    def release(self) -> None:
        """End the actor, and give the resources back."""
        import ray
        from ray.util.placement_group import remove_placement_group

        if self.actor is not None:
            with suppress(Exception):  # it may be dead, and its node with it
                ray.kill(self.actor, no_restart=True)
        if self._group is not None:
            remove_placement_group(self._group)
        self.actor = self._group = self.question = None


def reports(placements: Sequence[Placement], wait_s: float) -> dict[Placement, StackReport | Exception]:
    """What stacks say of themselves, of those that answer in this time. Each is asked one question at a time: to one
    that is slow the answer is waited for the next time, and it is not asked again meanwhile."""
    import ray

    asked: dict[Any, Placement] = {}
    for placement in placements:
        if placement.actor is not None:
            if placement.question is None:
                placement.question = placement.actor.report.remote()
            asked[placement.question] = placement
    done = ray.wait(list(asked), num_returns=len(asked), timeout=wait_s)[0] if asked else []
    for ref in done:
        asked[ref].question = None
    return {asked[ref]: _answer(ref) for ref in done}


def _answer(ref: Any) -> StackReport | Exception:
    import ray

    try:
        report: StackReport = ray.get(ref)
        return report
    except ray.exceptions.ActorDiedError as error:
        reason = str(getattr(error, "cause", "") or error).strip().splitlines()
        return ActorGone(reason[-1] if reason else "its actor died")
    except Exception as error:  # a node that does not answer now
        return error


def remember(placements: Sequence[Placement], wanted: int, wait_s: float) -> None:
    """Have stacks keep how many nodes there are to be."""
    import ray

    asked = [placement.actor.remember.remote(wanted) for placement in placements if placement.actor is not None]
    if asked:
        ray.wait(asked, num_returns=len(asked), timeout=wait_s)


def alive_nodes() -> dict[str, str]:
    """Ids and addresses of Ray's nodes that live."""
    import ray

    return {node["NodeID"]: node["NodeManagerAddress"] for node in ray.nodes() if node["Alive"]}


def placed_before(cluster: str) -> list[str]:
    """Names of nodes of this cluster that have an actor."""
    import ray

    start = actor_name(cluster, "")
    rows = ray.util.list_named_actors(all_namespaces=True)
    names = [row["name"] for row in rows if row["namespace"] == NAMESPACE]
    return sorted(name.removeprefix(start) for name in names if name.startswith(f"{start}node-"))
