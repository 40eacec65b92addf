"""The simulated operator: publishes a prompt and takes it back, again and again, and believes only what was answered.

Declarations go to a state directory in memory, whose writes the kvstore may be killed in. After a restart the prompt is
published if that was the last answer; while an answer is outstanding it may be either.
"""

from __future__ import annotations

from typing import Any

from quire_proto.client.requests import Pending, Session
from quire_proto.messages import sharing as a
from quire_proto.op_table import PUBLISH, UNPUBLISH, Op
from quire_proto.wire.errors import NotFound
from quire_proto.wire.u32 import pack_u32
from tests.proofs.documents import Documents
from tests.proofs.sim import Process, Sim
from tests.proofs.sim_kvstore import SimKvstore
from tests.proofs.sim_network import Network

PROMPT = [0, 0, 0, 1]
RESEND_MS = 25
PAUSE_MS = (250, 600)  # longer than a frame can be under way: what is not ordered may be executed that late
KILL = 1 / 60


class MemoryDir(Documents):
    """Documents whose writes the kvstore may be killed in."""

    def __init__(self, sim: Sim) -> None:
        super().__init__()
        self._sim = sim

    def write(self, name: str, content: dict[str, Any]) -> None:
        """Replace a document."""
        self._sim.failpoint("kvstore: wrote a draft", KILL)
        super().write(name, content)
        self._sim.failpoint("kvstore: renamed it", KILL)

    def remove(self, name: str) -> None:
        """Remove a document."""
        super().remove(name)
        self._sim.failpoint("kvstore: removed a document", KILL)


class Operator(Process):
    """Says publish and unpublish in turn.

    Attributes:
        published: what must be so; None while a request is unanswered.
    """

    def __init__(self, sim: Sim, kvstore: SimKvstore, network: Network) -> None:
        super().__init__(sim, "operator")
        self._kvstore, self._network = kvstore, network
        self.published: bool | None = False

    def begin(self) -> None:
        self._session = Session()
        self.later(50, self._publish)

    def ended(self) -> None:
        raise AssertionError("the operator is never killed")

    def arrive(self, _: bytes, frame: bytes) -> None:
        """A reply."""
        for answer in self._session.feed(frame):
            publishing = answer.pending.op is PUBLISH
            # An unpublish whose first reply was lost finds nothing when it is repeated.
            assert answer.error is None or (isinstance(answer.error, NotFound) and not publishing), answer.error
            self.published = publishing
            self.later(self.sim.random.randint(*PAUSE_MS), self._unpublish if publishing else self._publish)

    def check(self) -> None:
        """What was answered holds."""
        if self.published is not None and self._kvstore.alive:
            publication = self._kvstore.world.store.state.publications.get("q")
            assert (publication is not None) == self.published, "an acknowledged declaration is lost"

    def _publish(self) -> None:
        self._ask(PUBLISH, a.Publish("q", "public", pack_u32(PROMPT)))

    def _unpublish(self) -> None:
        self._ask(UNPUBLISH, a.Unpublish("q"))

    def _ask(self, op: Op[Any], body: object) -> None:
        self.published = None
        self._send(self._session.request(op, body, 50.0))

    def _send(self, pending: Pending) -> None:
        if pending in self._session.in_flight():
            self._network.carry(self.name, lambda frame: self._kvstore.arrive(b"operator", frame), pending.frame)
            self.later(RESEND_MS, self._send, pending)
