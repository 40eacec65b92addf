"""The controller's judgement, with placements that are written out: who is given up, and where another is placed."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from types import SimpleNamespace

import pytest

from quire_services.cluster import controller as controller_module
from quire_services.cluster.controller import GIVEN_UP_S, PASSED_OVER_S, PLACE_AGAIN_S, Controller
from quire_services.cluster.node_stack import STACK_FAILED, StackReport
from quire_services.cluster.nodes import SERVING
from quire_services.cluster.placement import ActorGone
from quire_services.cluster.stack_order import StackOrder

ORDER = StackOrder("c", {}, (), "127.0.0.1", {"CPU": 1}, 1.0)


class WrittenPlacement:
    """One that lies on the first of the world's machines that was not taken when it was asked for."""

    world: World

    def __init__(self, _cluster: str, name: str) -> None:
        self.name, self.ray_node, self.machine = name, "", ""
        self.actor: str | None = None
        self.world.placements[name] = self

    def ask(self, _order: StackOrder, taken: Collection[str]) -> None:
        """Remember where not."""
        self.ray_node = next((node for node in self.world.alive if node not in taken), "")

    def placed(self, _wait_s: float) -> bool:
        """If a machine was free."""
        return bool(self.ray_node)

    def start(self, _order: StackOrder, _wanted: int) -> None:
        """It serves at once."""
        self.actor, self.machine = self.name, self.ray_node
        self.world.said[self.name] = StackReport(SERVING, f"http://{self.name}")

    def drain(self) -> None:
        """Nothing to end."""

    def release(self) -> None:
        """It is gone."""
        self.actor = None
        self.world.released.append(self.name)


class World:
    """Machines, what stacks on them say, and a clock."""

    def __init__(self, *machines: str) -> None:
        self.alive = dict.fromkeys(machines, "")
        self.said: dict[str, StackReport | Exception] = {}
        self.placements: dict[str, WrittenPlacement] = {}
        self.released: list[str] = []
        self.now = 1000.0

    def reports(self, placements: Sequence[WrittenPlacement], _wait_s: float) -> dict[WrittenPlacement, object]:
        """What those say that say anything."""
        return {one: self.said[one.name] for one in placements if one.actor and one.name in self.said}

    def places(self, controller: Controller) -> dict[str, str]:
        """The nodes that serve, and where."""
        return {node.name: node.host for node in controller.nodes() if node.state == SERVING}


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    it = World("a", "b", "c")
    monkeypatch.setattr(WrittenPlacement, "world", it, raising=False)
    monkeypatch.setattr(controller_module, "Placement", WrittenPlacement)
    monkeypatch.setattr(controller_module, "reports", it.reports)
    monkeypatch.setattr(controller_module, "alive_nodes", lambda: dict(it.alive))
    monkeypatch.setattr(controller_module, "placed_before", lambda _cluster: [])
    monkeypatch.setattr(controller_module, "remember", lambda *_: None)
    monkeypatch.setattr(controller_module, "time", SimpleNamespace(monotonic=lambda: it.now))
    monkeypatch.setattr(Controller, "_follow", lambda _self: None)
    return it


def serving(world: World, nodes: int) -> Controller:
    """A controller whose nodes serve."""
    controller = Controller("c")
    assert controller.apply(ORDER, nodes) == ""
    turns(world, controller, 2 * nodes)
    assert controller.status().serving == nodes
    return controller


def turns(world: World, controller: Controller, number: int) -> None:
    """So many turns, each a half second."""
    for _ in range(number):
        world.now += 0.5
        controller.turn()


def test_a_silent_node_is_given_up_and_its_machine_passed_over(world: World) -> None:
    """Ray takes the machine for alive; the next stack comes to another one, and nobody is said to be missing then."""
    controller = serving(world, 2)
    assert world.places(controller) == {"node-1": "a", "node-2": "b"}
    del world.said["node-2"]
    turns(world, controller, round(2 * GIVEN_UP_S))
    assert world.released == []
    turns(world, controller, 1)
    assert world.released == ["node-2"]
    assert controller.status().problem == "node-2: its machine b does not answer"
    turns(world, controller, 1)
    assert world.places(controller) == {"node-1": "a", "node-3": "c"}
    assert controller.status().problem == ""

    controller.scale(3)
    turns(world, controller, 2)
    assert world.places(controller)["node-4"] == "b", "where no other machine is free, that one is as good as any"


def test_a_machine_that_was_silent_is_as_good_as_any_after_a_while(world: World) -> None:
    """It was slow, not gone."""
    controller = serving(world, 1)
    del world.said["node-1"]
    turns(world, controller, round(2 * GIVEN_UP_S) + 3)
    assert world.places(controller) == {"node-2": "b"}
    world.now += PASSED_OVER_S
    controller.scale(2)
    turns(world, controller, 2)
    assert world.places(controller) == {"node-2": "b", "node-3": "a"}


def test_a_stack_that_served_is_replaced_at_once_and_one_that_never_did_after_a_pause(world: World) -> None:
    """So an actor that died costs no seconds, and a stack that cannot start is no storm of starts."""
    controller = serving(world, 1)
    world.said["node-1"] = ActorGone("killed")
    turns(world, controller, 2)
    assert world.places(controller) == {"node-2": "a"}

    controller.scale(2)
    turns(world, controller, 1)
    world.said["node-3"] = StackReport(STACK_FAILED, reason="no such model")
    turns(world, controller, 1)
    assert controller.status().problem == "node-3 on b: no such model"
    turns(world, controller, round(2 * PLACE_AGAIN_S) - 1)
    assert "node-4" not in world.placements
    turns(world, controller, 3)
    assert world.places(controller) == {"node-2": "a", "node-4": "b"}
