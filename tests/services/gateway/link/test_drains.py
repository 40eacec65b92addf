"""An engine that is drained gets nothing new, and the others go on with what it has, from the offers that it makes."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from quire_proto.gateway_link import HANDOFF, LOSS, Drain
from quire_proto.wire.u32 import unpack_u32
from quire_services.gateway.admin.token import TOKEN_FILE
from tests.services.gateway.failover.test_failover import ASKED, PLAIN, STREAM, answer, comparable
from tests.services.gateway.test_engines import Background
from tests.support.gateway import GatewayProcess, Start
from tests.support.peer_engine import PeerEngine
from tests.support.ports import free_port
from tests.support.quire_command import Quire
from tests.support.waits import wait_for


class Operator:
    """The admin API of a gateway."""

    def __init__(self, process: GatewayProcess, port: int) -> None:
        self.process, self.port = process, port
        token = (process.run_dir / TOKEN_FILE).read_text().strip()
        headers = {"authorization": f"Bearer {token}"}
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{port}/admin", headers=headers, timeout=20)

    def drain(self, name: str, **body: Any) -> httpx.Response:
        return self.http.post(f"/engines/{name}/drain", json=body)

    def row(self, name: str) -> dict[str, Any]:
        """An engine as it is listed."""
        return next(row for row in self.http.get("/engines").json()["data"] if row["name"] == name)


@pytest.fixture(scope="module")
def operator(model: Any) -> Iterator[Operator]:
    port = free_port()
    process = GatewayProcess(model, "--hold-s=5", f"--admin-port={port}").wait()
    it = Operator(process, port)
    yield it
    it.http.close()
    assert process.stop() == 0


@pytest.fixture
def engines(operator: Operator) -> Iterator[list[PeerEngine]]:
    """Two engines, of which the first has all that is asked for before the second comes."""
    found = [operator.process.engine("one")]
    yield found
    for engine in found:
        engine.close()
    wait_for(lambda: operator.process.health()["engines"]["connected"] == 0, "they are gone")


def second(operator: Operator, engines: list[PeerEngine], **attributes: Any) -> PeerEngine:
    engine = operator.process.engine("two")
    engines.append(engine)
    for name, value in attributes.items():
        setattr(engine, name, value)
    engine.load(ready=True)
    wait_for(lambda: operator.row("two")["free_slots"] == engine.slots, "it is known")
    return engine


@pytest.mark.parametrize("kind", ["chat", "several", "stop string", "echo", "batch"])
def test_answers_go_on_in_the_engine_that_adopts_them(operator: Operator, engines: list[PeerEngine], kind: str) -> None:
    """Byte for byte: with the offer that was made to it, what is computed, and nothing that was sent."""
    (one,) = engines
    one.cached_tokens = 3
    whole = answer(operator.process, ASKED[kind])
    one.requests.clear()
    one.steps = 6
    out: list[httpx.Response] = []
    thread = threading.Thread(target=lambda: out.append(answer(operator.process, ASKED[kind])))
    thread.start()
    wait_for(one.stalled, "it has begun")
    two = second(operator, engines, cached_tokens=9)
    assert operator.drain("one").json()["state"] == "being drained"
    thread.join(20)
    assert comparable(out[0]) == comparable(whole)
    assert one.drains == [Drain()]
    assert {handoff.target for handoff in one.handoffs} == {two.session}
    assert [request.offer for request in two.requests] == one.offers
    for request in two.requests:
        assert (request.n, request.cause) == (1, HANDOFF)
        assert request.computed == (len(request.tokens) + len(request.emitted)) // 4 - 1
        assert len(unpack_u32(request.emitted)) == 6
    wait_for(lambda: operator.row("one")["state"] == "drained", "nothing is left")


def test_nothing_new_until_it_is_undrained(operator: Operator, engines: list[PeerEngine], quire: Quire) -> None:
    """Every new request goes to the other one; afterwards it gets some again."""
    one, two = engines[0], second(operator, engines)
    assert operator.drain("one").status_code == 200
    for _ in range(4):
        assert answer(operator.process, PLAIN).status_code == 200
    assert (len(one.requests), len(two.requests)) == (0, 4)
    undrained = quire("undrain", "one", *flags(operator))
    assert (undrained.code, undrained.out) == (0, "one: ready\n")
    for _ in range(4):
        assert answer(operator.process, PLAIN).status_code == 200
    assert one.requests
    assert one.drains == [Drain(), Drain(on=False)]


def flags(operator: Operator) -> list[str]:
    return [f"--run-dir={operator.process.run_dir}", f"--admin-port={operator.port}"]


def test_the_last_engine_is_not_drained(operator: Operator, engines: list[PeerEngine], quire: Quire) -> None:
    """Unless that is forced: then what it has ends there, and new requests wait for another."""
    (one,) = engines
    one.steps = 3
    waiting = Background(operator.process, **PLAIN)
    wait_for(one.stalled, "it has begun")
    refused = quire("drain", "one", *flags(operator))
    assert refused.code == 1
    assert "no other engine can take the requests of one: start one, or force it" in refused.err
    assert operator.row("one")["state"] == "ready"
    unknown = operator.drain("nobody")
    assert (unknown.status_code, unknown.json()["error"]["code"]) == (404, "engine_not_found")
    forced = quire("drain", "one", "--force", *flags(operator))
    assert (forced.code, forced.out) == (0, "one: being drained, 1 sequences are left\n")
    later = Background(operator.process, **PLAIN)
    one.steps = None
    assert waiting.result().json()["usage"]["completion_tokens"] == 30
    two = second(operator, engines)
    assert later.result().status_code == 200
    assert len(two.requests) == 1
    assert not one.handoffs


def test_sequences_stay_until_there_is_a_slot(operator: Operator, engines: list[PeerEngine]) -> None:
    """An engine whose batch is full is handed nothing that runs; what has no token yet may wait there."""
    (one,) = engines
    one.steps = 3
    begun = [Background(operator.process, **PLAIN) for _ in range(3)]
    wait_for(lambda: len(one.requests) == 3 and one.stalled(), "they have begun")
    one.steps = 0
    two = second(operator, engines, slots=0, steps=0)
    operator.drain("one")
    wait_for(lambda: one.drains, "it is drained")
    one.load(ready=True)
    assert not one.handoffs
    two.slots = 2
    two.load(ready=True)
    wait_for(lambda: len(two.requests) == 2, "two have moved")
    assert sum(len(handoff.items) for handoff in one.handoffs) == 2
    one.steps = two.steps = None
    assert [answer.result().json()["usage"]["completion_tokens"] for answer in begun] == [30] * 3


def test_it_is_asked_again(operator: Operator, engines: list[PeerEngine]) -> None:
    """An engine that could not hand something over when it was asked."""
    (one,) = engines
    one.steps, one.deaf = 3, True
    waiting = Background(operator.process, **PLAIN)
    wait_for(one.stalled, "it has begun")
    two = second(operator, engines)
    operator.drain("one")
    wait_for(lambda: one.handoffs, "it is asked")
    one.deaf = False
    wait_for(lambda: two.load(ready=True) or len(one.handoffs) == 2, "it is asked again")
    assert waiting.result().json()["usage"]["completion_tokens"] == 30


@pytest.mark.parametrize("dies", ["source", "target"])
def test_an_engine_that_dies_while_it_hands_over(operator: Operator, engines: list[PeerEngine], dies: str) -> None:
    """Asked and not yet given back, or given back and not yet gone on with: the answer is the same."""
    (one,) = engines
    whole = answer(operator.process, PLAIN | STREAM)
    one.steps, one.deaf = 5, dies == "source"
    waiting = Background(operator.process, **PLAIN | STREAM)
    wait_for(one.stalled, "it has begun")
    two = second(operator, engines, steps=5)
    operator.drain("one")
    wait_for(lambda: one.handoffs, "it is asked")
    if dies == "target":
        wait_for(lambda: two.requests, "it has the offer")
        engines.append(operator.process.engine("three"))
        two.close()
        (again,) = wait_for(lambda: engines[-1].requests, "it goes on in a third")
        assert (again.offer, again.cause) == (b"", LOSS)
    else:
        two.steps = None
        one.close()
    assert comparable(waiting.result()) == comparable(whole)


def test_an_engine_that_is_to_end_asks_for_it(operator: Operator, engines: list[PeerEngine]) -> None:
    """It is drained by what it reports, though no operator said so."""
    (one,) = engines
    one.steps = 4
    waiting = Background(operator.process, **PLAIN)
    wait_for(one.stalled, "it has begun")
    second(operator, engines)
    one.load(ready=True, leaving=True)
    assert waiting.result().json()["usage"]["completion_tokens"] == 30
    assert one.offers
    wait_for(lambda: operator.row("one")["state"] == "drained", "nothing is left")


def test_engines_are_listed(operator: Operator, engines: list[PeerEngine], quire: Quire) -> None:
    """For people, and as JSON; a drain that is waited for ends when nothing is left."""
    one, two = engines[0], second(operator, engines)
    one.steps = two.steps = 3
    waiting = [Background(operator.process, **PLAIN) for _ in range(2)]
    wait_for(lambda: one.stalled() and two.stalled(), "one each")
    table = quire("engines", *flags(operator)).out.splitlines()
    assert [line.split()[:5] for line in table] == [
        ["engine", "state", "role", "session", "sequences"],
        ["one", "ready", "both", one.session.hex()[:8], "1"],
        ["two", "ready", "both", two.session.hex()[:8], "1"],
    ]
    two.steps = None
    drained = quire("drain", "one", "--wait", "--json", *flags(operator))
    assert json.loads(drained.out)["state"] == "drained"
    rows = json.loads(quire("engines", "--json", *flags(operator)).out)
    assert [(row["state"], row["sequences"]) for row in rows] == [("drained", 0), ("ready", 0)]
    assert [answer.result().status_code for answer in waiting] == [200] * 2


def test_without_an_admin_port_it_is_said(start: Start, quire: Quire) -> None:
    """In a sentence that names the flag."""
    process = start()
    for words in (("engines",), ("drain", "one"), ("undrain", "one")):
        refused = quire(*words, f"--run-dir={process.run_dir}")
        assert refused.code == 1
        assert "give --admin-port" in refused.err
