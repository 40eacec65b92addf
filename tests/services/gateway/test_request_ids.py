"""Request ids: every line of a log that is about a request names it, whichever process wrote the line."""

from __future__ import annotations

import pytest

from tests.services.gateway.test_engines import Background
from tests.support.gateway import GatewayProcess
from tests.support.waits import wait_for

pytestmark = pytest.mark.process


def test_an_engine_is_told_the_request_id_and_two_requests_of_one_id_are_two(gateway: GatewayProcess) -> None:
    """The name of a request on the link begins with it, for the engine's log, and no two names are equal."""
    engine = gateway.engine()
    for _ in range(2):
        body = {"model": "tiny", "prompt": "hi", "max_tokens": 1}
        gateway.http.post("/v1/completions", json=body, headers={"x-request-id": "mine"})

    names = [request.request for request in engine.requests]
    assert [name.partition(":")[0] for name in names] == ["mine", "mine"]
    assert names[0] != names[1]
    engine.close()


def test_lines_of_moves_and_of_poison_name_their_requests(gateway: GatewayProcess) -> None:
    """Those that move together in one line; the one that is stopped by itself."""
    engines = [gateway.engine(f"engine-{number}") for number in range(3)]
    for engine in engines:
        engine.steps = 0
    lost = Background(gateway, {"x-request-id": "lost-1"})
    for _ in range(2):
        holder = wait_for(lambda: next((one for one in engines if one.requests), None), "an engine has it")
        engines.remove(holder)
        holder.close()

    assert lost.result().status_code == 500
    ended = ("request", "lost-1")
    wait_for(lambda: ended in [(x["event"], x.get("request_id")) for x in gateway.lines()], "its line is written")
    lines = gateway.lines()
    assert [line["requests"] for line in lines if line["event"] == "moved"][-2:] == [["lost-1"], ["lost-1"]]
    assert [line["request_id"] for line in lines if line["event"] == "poison"] == ["lost-1"]
    (told,) = (line for line in lines if line["event"] == "request" and line["request_id"] == "lost-1")
    assert (told["status"], told["outcome"]) == (500, "5xx")
    for engine in engines:
        engine.close()
    wait_for(lambda: gateway.health()["engines"]["connected"] == 0, "the engines are gone")
