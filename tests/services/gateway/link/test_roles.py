"""Engines that prefill hand what has a token to those that decode; without one of a kind the others do its work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from quire_proto.gateway_link import DECODE, PREFILL
from quire_proto.wire.u32 import unpack_u32
from tests.services.gateway.failover.test_failover import ASKED, PLAIN, answer, comparable
from tests.services.gateway.test_engines import Background
from tests.support.gateway import GatewayProcess
from tests.support.peer_engine import PeerEngine
from tests.support.waits import wait_for


@pytest.fixture(scope="module")
def process(model: Any) -> Iterator[GatewayProcess]:
    started = GatewayProcess(model, "--hold-s=5").wait()
    yield started
    assert started.stop() == 0


@pytest.fixture(autouse=True)
def gone(process: GatewayProcess) -> Iterator[None]:
    """Every engine of a test is gone after it."""
    yield
    while process.engines:
        process.engines.pop().close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "they are gone")


@pytest.mark.parametrize("kind", ["chat", "several", "stop string"])
def test_what_has_a_token_goes_on_in_an_engine_that_decodes(process: GatewayProcess, kind: str) -> None:
    """Byte for byte, each continuation with its offer; prompts go to the engine that prefills alone."""
    both = process.engine("both")
    whole = answer(process, ASKED[kind])
    both.close()
    wait_for(lambda: process.health()["engines"]["connected"] == 0, "it is gone")
    prefill, decode = process.engine("prefill", role=PREFILL), process.engine("decode", role=DECODE)
    prefill.steps = 1
    assert comparable(answer(process, ASKED[kind])) == comparable(whole)
    assert [request.offer for request in decode.requests] == prefill.offers != []
    assert all(len(unpack_u32(request.emitted)) == 1 for request in decode.requests)
    assert not any(request.emitted for request in prefill.requests)


@pytest.mark.parametrize("role", [PREFILL, DECODE])
def test_with_one_kind_alone(process: GatewayProcess, role: str) -> None:
    """An engine does the other work, too, as long as there is no other."""
    only = process.engine("only", role=role)
    assert answer(process, PLAIN).status_code == 200
    assert not only.handoffs


def test_an_engine_that_decodes_comes_later(process: GatewayProcess) -> None:
    """What goes on where it was prefilled moves when there is one, and when that has slots; a death brings it back. The
    log tells what was computed again by which of both."""
    prefill = process.engine("prefill", role=PREFILL)
    prefill.steps = 4
    waiting = Background(process, **PLAIN)
    wait_for(prefill.stalled, "it goes on there")
    prefill.deaf = True  # until the other may take so many steps
    decode = process.engine("decode", role=DECODE)
    decode.steps, prefill.deaf = 8, False
    wait_for(decode.stalled, "it has moved")
    prefill.steps = None
    decode.close()
    answered = waiting.result()
    usage, name = answered.json()["usage"], answered.headers["x-request-id"]
    assert usage["completion_tokens"] == 30
    line = wait_for(lambda: next((x for x in process.lines() if x.get("request_id") == name), None), "it is logged")
    handed, lost = usage["prompt_tokens"] + 3, usage["prompt_tokens"] + 8  # the first engine had not computed its last
    assert line is not None
    assert (line["recomputed_handoff_tokens"], line["recomputed_tokens"]) == (handed, handed + lost)
    assert [len(unpack_u32(request.emitted)) for request in prefill.requests] == [0, 8]


def test_a_role_that_is_none(process: GatewayProcess) -> None:
    """Such an engine is not taken."""
    engine = PeerEngine(process.run_dir / "gateway.sock", "odd", vocab=320, eos=1, role="prefil")
    process.engines.append(engine)
    wait_for(lambda: any("no engine is a" in str(line.get("reason")) for line in process.lines()), "it is said")
    assert process.health()["engines"]["connected"] == 0
