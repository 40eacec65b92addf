"""Keys, hang-ups, logs, start and stop of the gateway process."""

from __future__ import annotations

import json
import signal
import socket
import stat
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.services.gateway.test_engines import Background
from tests.support.gateway import GatewayProcess, Start, refused
from tests.support.peer_engine import PeerEngine
from tests.support.ports import listens
from tests.support.waits import wait_for

KEYS = '[[tenants]]\nname = "acme"\nkeys = ["sk-one", "sk-two"]\n'
OTHER = '[[tenants]]\nname = "zeta"\nkeys = ["sk-three"]\n'


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("steps", [0, 3])
def test_a_client_that_hangs_up_frees_its_engine(
    gateway: GatewayProcess, engine: PeerEngine, stream: bool, steps: int
) -> None:
    """Streamed or not, before or after the first token: the engine is told to stop at once."""
    engine.steps = steps
    body = json.dumps({"model": "tiny", "prompt": "hi", "n": 2, "max_tokens": 400, "stream": stream}).encode()
    with socket.create_connection(("127.0.0.1", gateway.port)) as connection:
        head = f"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n"
        connection.sendall(head.encode() + b"content-type: application/json\r\n\r\n" + body)
        wait_for(lambda: len(engine.requests) == 1, "the request")
        if stream and steps:
            assert connection.recv(100).startswith(b"HTTP/1.1 200")

    wait_for(lambda: len(engine.aborts) == 1, "the abort", 2)
    assert engine.aborts[0].request == engine.requests[0].request
    assert engine.aborts[0].every
    wait_for(lambda: any(x.get("outcome") == "client_gone" for x in gateway.lines()), "the log line")


def test_keys_name_tenants_and_can_change(start: Start, tmp_path: Path) -> None:
    """Without a right key 401, with one its tenant; the file is read again while the gateway runs."""
    config = tmp_path / "quire.toml"
    config.write_text(KEYS)
    process = start(config=config)
    engine = process.engine()

    def ask(key: str | None, **extra: Any) -> int:
        headers = {"authorization": f"Bearer {key}"} if key else {}
        body = {"model": "tiny", "prompt": "hi", "max_tokens": 1} | extra
        return process.http.post("/v1/completions", json=body, headers=headers).status_code

    assert [ask(key) for key in (None, "", "sk-", "sk-one2", "sk-three", "sk-two")] == [401, 401, 401, 401, 401, 200]
    assert ask("sk-one", tenant="zeta", user="zeta") == 200
    assert {request.tenant for request in engine.requests} == {"acme"}
    basic = process.http.get("/v1/models", headers={"authorization": "Basic sk-one"})
    assert basic.json()["error"]["code"] == "invalid_api_key"
    assert process.http.get("/version").status_code == 401
    assert process.http.get("/nothing").status_code == 401

    config.write_text("[[tenants]\n")
    wait_for(lambda: any(line["event"] == "keys_kept" for line in process.lines()), "the broken file to be seen")
    assert ask("sk-one") == 200
    config.write_text("")
    wait_for(lambda: sum(line["event"] == "keys_kept" for line in process.lines()) == 2, "the empty file to be seen")
    assert ask(None) == 401
    config.write_text(OTHER)
    wait_for(lambda: ask("sk-three") == 200, "the new keys")
    assert ask("sk-one") == 401
    assert engine.requests[-1].tenant == "zeta"
    assert "sk-" not in process.log.read_text()


def test_without_keys_there_is_one_tenant_on_the_loopback_only(model: Path) -> None:
    """An address that others reach is refused with a clear error unless keys are configured."""
    assert "no API key is configured" in refused(model, "--host", "0.0.0.0")
    published = refused(model, "--host", "0.0.0.0", "--published-host", "192.0.2.1")
    assert "--published-host 192.0.2.1 can be reached by others" in published


def test_the_open_tenant_is_default(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Whatever key is sent where none is configured, the tenant is the same."""
    client.completions.create(model="tiny", prompt="hi", max_tokens=1)
    assert engine.requests[0].tenant == "default"


def test_information_pages(client: openai.OpenAI, gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Models and version, with a request id on every response."""
    (model,) = client.models.list().data
    assert (model.id, model.model_extra["max_model_len"]) == ("tiny", 512)
    assert client.models.retrieve("tiny").owned_by == "quire"
    assert gateway.http.get("/version").json()["version"][0].isdigit()
    mine = gateway.http.get("/health", headers={"x-request-id": "mine-1"})
    bad = gateway.http.get("/health", headers={"x-request-id": "a b"})
    assert mine.headers["x-request-id"] == "mine-1"
    assert bad.headers["x-request-id"].startswith("req-")


def test_the_access_log_tells_figures_and_no_prompts(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """One JSON line a request: id, tenant, status, tokens, time; never what was said."""
    engine.cached_tokens = 2
    body = {"model": "tiny", "prompt": "xylophone secret", "max_tokens": 3}
    answer = gateway.http.post("/v1/completions", json=body, headers={"x-request-id": "log-1"})

    wait_for(lambda: any(x.get("request_id") == "log-1" for x in gateway.lines()), "the line")
    (line,) = (x for x in gateway.lines() if x.get("request_id") == "log-1")
    assert (line["tenant"], line["status"], line["outcome"], line["path"]) == ("default", 200, "ok", "/v1/completions")
    assert line["prompt_tokens"] == answer.json()["usage"]["prompt_tokens"]
    assert (line["cached_tokens"], line["completion_tokens"]) == (2, 3)
    assert 0 < line["ttft_ms"] <= line["ms"]
    assert "xylophone" not in gateway.log.read_text()


def test_a_stop_drains_and_leaves_nothing(start: Start) -> None:
    """On SIGTERM the port closes, the running request is finished, the socket is removed, the exit status is 0."""
    process = start()
    engine = process.engine()
    path = process.run_dir / "gateway.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    engine.steps = 1
    running = Background(process, max_tokens=5)
    wait_for(lambda: len(engine.requests) == 1, "the request")
    process.process.send_signal(signal.SIGTERM)
    wait_for(lambda: not listens(process.port), "the port to close")
    engine.steps = None

    assert running.result().status_code == 200
    assert process.process.wait(10) == 0
    assert not path.exists()


def test_what_the_drain_does_not_wait_for_is_aborted(start: Start) -> None:
    """After the deadline a request that still runs gets 503, and its engine is told to stop."""
    process = start("--drain-s", "0.3")
    engine = process.engine()
    engine.steps = 1
    running = Background(process)
    wait_for(lambda: len(engine.requests) == 1, "the request")
    process.process.send_signal(signal.SIGTERM)

    assert running.result().status_code == 503
    wait_for(lambda: len(engine.aborts) == 1, "the abort")
    assert process.process.wait(5) == 0


def test_a_second_signal_ends_at_once(start: Start) -> None:
    """An operator who does not want to wait for the drain need not."""
    process = start()
    engine = process.engine()
    engine.steps = 1
    Background(process)
    wait_for(lambda: len(engine.requests) == 1, "the request")
    process.process.send_signal(signal.SIGINT)
    wait_for(lambda: not listens(process.port), "the port to close")
    assert process.process.poll() is None
    process.process.send_signal(signal.SIGINT)
    assert process.process.wait(2) == 1


def test_the_process_never_imports_torch(gateway: GatewayProcess) -> None:
    """Tokenizing needs none: no library of torch is mapped into the running gateway."""
    maps = Path(f"/proc/{gateway.process.pid}/maps").read_text()
    assert "libtorch" not in maps
    assert "tokenizers" in maps


def test_a_mistake_in_starting_is_one_clear_line(tmp_path: Path, model: Path) -> None:
    """No tokenizer, no model and a port in use each end with status 1 and the reason."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert "listen" in refused(model, "--port", port)
    assert "tokenizer" in refused(tmp_path)
    assert "not a directory" in refused(tmp_path / "none")
