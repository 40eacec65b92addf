"""A stack under Ray Serve, as a user has it: ``serve run`` with a configuration, asked, killed, shut down."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import pytest

from bench.models.tiny import make_model
from quire_services.cluster.local_ray import OBJECT_STORE_BYTES, RAY_ENVIRONMENT
from quire_services.config.process_table import ProcessEntry, read_process_table
from tests.support.gateway import TEMPLATE, write_tokenizer
from tests.support.ports import free_port
from tests.support.waits import wait_for

pytestmark = [
    pytest.mark.process,
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(
        any(find_spec(name) is None for name in ("ray", "grpc_reflection", "watchfiles")),
        reason="the extra serve (ray[serve]) is not installed",
    ),
]
NAME = f"serve-test-{os.getpid()}"
KEY = {"authorization": "Bearer sk-acme"}
COMPLETION = {"model": "model", "prompt": "the quick brown fox", "max_tokens": 6, "temperature": 0, "ignore_eos": True}
CHAT: dict[str, Any] = {"model": "model", "messages": [{"role": "user", "content": "a fox"}], "temperature": 0}
TOOL = {
    "type": "function",
    "function": {"name": "jump", "parameters": {"type": "object", "properties": {}, "additionalProperties": False}},
}
OF_CONNECTION = {"date", "server", "x-request-id", "content-length", "transfer-encoding"}
END_S = 150.0
START_S = 400.0  # of a stack or of Serve, on a machine that is busy


@dataclass
class Served:
    """Serve, where it and its Ray answer, and its replica's stack."""

    url: str
    ray: str

    def home(self) -> Path:
        """The folder of the one stack there is."""
        (found,) = Path("/tmp").glob(f"quire-{os.getuid()}-cluster-{NAME}.*")
        return found

    def processes(self) -> dict[str, ProcessEntry]:
        """What runs of the stack, its supervisor too."""
        table = read_process_table(self.home() / "run")
        return {**table.running(), "supervisor": table.supervisor}

    def gateway(self) -> str:
        """Where the stack's own gateway is."""
        return f"http://127.0.0.1:{self.processes()['gateway'].option('port')}"

    def hung_up(self) -> float:
        """How many clients have left before their answer's end, as the gateway counts them."""
        lines = httpx.get(f"{self.gateway()}/metrics", timeout=30, trust_env=False).text.splitlines()
        of = [line for line in lines if line.startswith("quire_gateway_requests_total{") and '"client_gone"' in line]
        return sum(float(line.split()[-1]) for line in of)

    def post(self, path: str, body: Any, headers: dict[str, str] = KEY, *, past: bool = False) -> httpx.Response:
        """Through Serve, or ``past`` it, at the gateway."""
        url = self.gateway() if past else self.url
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        said = {"content-type": "application/json", **headers}
        return httpx.post(f"{url}{path}", content=data, headers=said, timeout=60, trust_env=False)

    def answers(self) -> bool:
        """Whether a completion comes."""
        try:
            return self.post("/v1/completions", COMPLETION).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One replica that serves."""
    folder = tmp_path_factory.mktemp("serve")
    model = make_model(folder / "model", vocab=320)
    write_tokenizer(model)
    (model / "chat_template.jinja").write_text(TEMPLATE)  # the tiny model's own knows no tools
    (folder / "quire.toml").write_text('[[tenants]]\nname = "acme"\nkeys = ["sk-acme"]\n')
    stack = {"model": str(model), "engines": 1, "blocks": 256, "threads": 1, "tool_parser": "hermes"}
    spec = {"name": NAME, "config": "quire.toml", "stack": stack, "resources": {"cpus": 1}, "drain_s": 5}
    (folder / "cluster.yaml").write_text(json.dumps(spec))  # JSON is YAML
    port = free_port()
    application = {
        "name": "agents",
        "route_prefix": "/",
        "import_path": "quire_services.cluster.ray_serve:build",
        "args": {"config": str(folder / "cluster.yaml")},
    }
    config = {"proxy_location": "HeadOnly", "http_options": {"host": "127.0.0.1", "port": port}}
    (folder / "serve.yaml").write_text(json.dumps({**config, "applications": [application]}))
    with local_ray(folder) as address:
        log = folder / "serve.log"
        process = start("ray.serve.scripts", log, "run", "--address", address, str(folder / "serve.yaml"))
        it = Served(f"http://127.0.0.1:{port}", address)
        try:
            wait_for(it.answers, f"Serve answers (see {log})", START_S, pause)
            yield it
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
            end(process)


@contextmanager
def local_ray(folder: Path) -> Iterator[str]:
    """A Ray of one node, with a folder and a port of its own; its address."""
    port, own, log = free_port(), Path(f"/tmp/{NAME}"), folder / "ray.log"
    how = ["--head", "--block", f"--port={port}", f"--temp-dir={own}", "--num-cpus=2", "--include-dashboard=false"]
    process = start("ray.scripts.scripts", log, "start", *how, f"--object-store-memory={OBJECT_STORE_BYTES}")
    try:
        wait_for(
            lambda: "Ray runtime started" in log.read_text() or process.poll() is not None, f"Ray runs (see {log})", 200
        )
        assert process.poll() is None, log.read_text()
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        end(process)
        shutil.rmtree(own, ignore_errors=True)


def start(module: str, log: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of Ray's. A test runner in the background of a shell ignores SIGINT, and so would what it starts."""
    # Whatever token another Ray has left with this user; and a proxy whose start takes longer is killed by Serve.
    own = {**RAY_ENVIRONMENT, "RAY_AUTH_MODE": "disabled", "RAY_SERVE_PROXY_READY_CHECK_TIMEOUT_S": "120"}
    own["RAY_worker_niceness"] = "0"  # Ray's is 15: beside other tests a stack would get nothing
    with log.open("wb") as out:
        return subprocess.Popen(
            ["env", "--default-signal=INT", sys.executable, "-P", "-m", module, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            env={**os.environ, **own},
            start_new_session=True,
        )


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait for its end, and make it after a minute."""
    try:
        process.wait(60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def pause() -> None:
    """Between two questions to what takes its time."""
    time.sleep(0.5)


def told(answer: httpx.Response) -> dict[str, str]:
    """Headers that are the gateway's word."""
    return {name: value for name, value in answer.headers.items() if name not in OF_CONNECTION}


@pytest.mark.parametrize(
    ("path", "body", "headers", "status"),
    [
        ("/v1/completions", COMPLETION, {}, 401),
        ("/v1/completions", COMPLETION, {"authorization": "Bearer sk-eve"}, 401),
        ("/v1/completions", {**COMPLETION, "max_tokens": "six"}, KEY, 400),
        ("/v1/completions", {**COMPLETION, "model": "other"}, KEY, 404),
        ("/v1/completions", b'{"model": ', KEY, 400),
        ("/v1/messages", {"model": "model"}, KEY, 400),
    ],
)
def test_an_error_is_the_gateway_s(served: Served, path: str, body: Any, headers: dict[str, str], status: int) -> None:
    """Status, body and headers, byte for byte."""
    through, past = served.post(path, body, headers), served.post(path, body, headers, past=True)
    assert through.status_code == past.status_code == status
    ids = {name: answer.headers["x-request-id"].encode() for name, answer in (("through", through), ("past", past))}
    assert through.content.replace(ids["through"], b"ID") == past.content.replace(ids["past"], b"ID")
    headers_of = [told(answer) for answer in (through, past)]
    for of in headers_of:
        of.pop("request-id", None)
    assert headers_of[0] == headers_of[1]


def test_answers_usage_tools_and_ids_pass(served: Served) -> None:
    """What the gateway says with the same prompt; the client's request id comes back once."""
    said = {**KEY, "x-request-id": "mine-1"}
    calls = {**CHAT, "tools": [TOOL], "tool_choice": "required", "max_tokens": 40}
    for path, body in (("/v1/completions", COMPLETION), ("/v1/chat/completions", calls)):
        served.post(path, body, past=True)  # so that both find it cached
        through, past = served.post(path, body, said), served.post(path, body, past=True)
        assert through.headers.get_list("x-request-id") == ["mine-1"]
        assert (through.status_code, past.status_code) == (200, 200), through.text
        answers = [answer.json() for answer in (through, past)]
        for answer in answers:
            del answer["id"], answer["created"]
            for choice in answer["choices"]:
                for call in choice.get("message", {}).get("tool_calls") or []:
                    del call["id"]
        assert answers[0] == answers[1]
    without = served.post("/v1/chat/completions", {**CHAT, "max_tokens": 1}).json()["usage"]["prompt_tokens"]
    assert answers[0]["usage"]["prompt_tokens"] > without  # the model was shown the tool
    models = httpx.get(f"{served.url}/v1/models", headers=KEY, timeout=30, trust_env=False).json()
    assert [row["id"] for row in models["data"]] == ["model"]


def test_a_stream_comes_piece_by_piece_and_ends_with_its_client(served: Served) -> None:
    """Its first event comes in the first half of its time; a client that hangs up ends the work at the gateway."""
    long = {**COMPLETION, "max_tokens": 1500, "stream": True}
    url, before = f"{served.url}/v1/completions", served.hung_up()
    with httpx.Client(timeout=60, trust_env=False) as client:
        began = time.monotonic()
        with client.stream("POST", url, json=long, headers=KEY) as answer:
            assert answer.headers["content-type"].startswith("text/event-stream")
            pieces = answer.iter_raw()
            first, first_s = next(pieces), time.monotonic() - began
            rest = b"".join(pieces)
        assert first.startswith(b"data: {")
        assert rest.rstrip().endswith(b"data: [DONE]")
        assert first_s < (time.monotonic() - began) / 2
        with client.stream("POST", url, json={**long, "max_tokens": 3900}, headers=KEY) as answer:
            next(answer.iter_raw())
    wait_for(lambda: served.hung_up() == before + 1, "the gateway knows that it is gone")

    short = {**COMPLETION, "stream": True, "stream_options": {"include_usage": True}}
    events = [
        [json.loads(line[6:]) for line in answer.text.splitlines() if line.startswith("data: {")]
        for answer in (served.post("/v1/completions", short), served.post("/v1/completions", short, past=True))
    ]
    texts = ["".join(choice["text"] for event in of for choice in event["choices"]) for of in events]
    assert texts[0] == texts[1] != ""
    assert events[0][-1]["usage"]["completion_tokens"] == 6


def test_a_stack_that_is_killed_is_there_again_in_its_replica(served: Served) -> None:
    """All of it at once, its supervisor too: the replica starts it anew, and Serve has nothing to replace."""
    home = served.home()
    owner = (home / "owner").read_text()
    for entry in served.processes().values():
        os.kill(entry.pid, signal.SIGKILL)
    wait_for(served.answers, "it answers again", START_S, pause)
    assert served.home() == home
    assert (home / "owner").read_text() == owner


def test_a_replica_that_is_killed_takes_its_stack_along_and_is_replaced(served: Served) -> None:
    """By one with a name and a stack of its own; of the other nothing is left."""
    before, processes = served.home(), served.processes()
    os.kill(int((before / "owner").read_text().split()[0]), signal.SIGKILL)
    wait_for(lambda: not any(entry.runs() for entry in processes.values()), "its stack ends", END_S, pause)
    wait_for(served.answers, "another answers", START_S, pause)
    wait_for(lambda: not before.exists(), "its folder is gone", END_S, pause)
    assert served.home() != before


def test_an_application_that_is_deleted_is_drained_and_leaves_nothing(served: Served) -> None:
    """What is open comes to its end, then the stack does; neither a process nor a folder of it stays."""
    processes = served.processes()
    delete = "import ray; ray.init(address={!r}); from ray import serve; serve.delete('agents')"
    with httpx.Client(timeout=60, trust_env=False) as client:
        some = {**COMPLETION, "max_tokens": 1000, "stream": True}
        with client.stream("POST", f"{served.url}/v1/completions", json=some, headers=KEY) as answer:
            pieces = answer.iter_raw()
            body = next(pieces)
            own = {**os.environ, **RAY_ENVIRONMENT, "RAY_AUTH_MODE": "disabled"}
            ending = subprocess.Popen([sys.executable, "-P", "-c", delete.format(served.ray)], env=own)
            body += b"".join(pieces)
    assert body.rstrip().endswith(b"data: [DONE]")
    assert ending.wait(120) == 0
    wait_for(lambda: not any(entry.runs() for entry in processes.values()), "its stack has ended", END_S, pause)
    wait_for(
        lambda: not list(Path("/tmp").glob(f"quire-{os.getuid()}-cluster-{NAME}.*")), "its folder is gone", END_S, pause
    )
