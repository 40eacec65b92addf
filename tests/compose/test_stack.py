"""compose.yaml on a real container engine, in the order of a life: up, used, broken in every way, scaled, taken down.

Run by `make compose-test` alone, since it may fetch and build for minutes. The table at its end says how long the
stack was gone after each fault, and .compose/stack.log what all containers said. Bounds are three times what is
promised on a machine with nothing else to do.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.compose.container_engine import NoEngine, build_prometheus, container_engine
from tests.compose.project import READY_S, Project
from tests.compose.recovery_table import TABLE
from tests.support.ports import free_port
from tests.support.repository import ROOT
from tests.support.waits import wait_for

pytestmark = pytest.mark.timeout(900)
if "COMPOSE_TEST" not in os.environ:
    pytest.skip("run by `make compose-test`", allow_module_level=True)

ENGINE_S, KVSTORE_S, GATEWAY_S = 2.0, 3.0, 3.0  # until it answers again
PAUSED_S = 10.0
RESTARTS = 10
OBSERVABILITY = ("--profile", "observability")
KEPT = ROOT / ".compose"


@pytest.fixture(scope="module")
def stack(request: pytest.FixtureRequest) -> Iterator[Project]:
    """The stack, built and up with nothing set; taken down at the end in any case."""
    try:
        with container_engine(KEPT) as engine:
            KEPT.mkdir(exist_ok=True)
            project = Project(engine)
            project.compose(*OBSERVABILITY, "down", "--volumes", "--remove-orphans")
            began = time.monotonic()
            project.build(KEPT if engine.base else Path())
            project.recovered.append(("build", f"{time.monotonic() - began:.0f} s"))
            try:
                project.compose("up", "--detach", "--no-build")
                project.back_after("up")
                wait_for(lambda: len(project.engines()) == 2, "both engines", READY_S)
                yield project
            finally:
                request.config.stash[TABLE] = _table(project)
                (KEPT / "stack.log").write_text(project.compose("logs", "--no-color"))
                project.compose(*OBSERVABILITY, "down", "--volumes", "--remove-orphans")
    except NoEngine as reason:
        pytest.skip(str(reason))


def _table(project: Project) -> list[tuple[str, str]]:
    """What happened and how long it took, and the sizes of images."""
    images = project.engine.docker("images", "--format", "{{.Repository}} {{.Size}}").splitlines()
    return [*project.recovered, *(("image " + row.split()[0], row.split()[1]) for row in images if row[:5] == "quire")]


@contextlib.contextmanager
def prometheus(project: Project) -> Iterator[httpx.Client]:
    """Prometheus beside the stack, all of the profile where images are pulled; its API."""
    port = free_port()
    own = {"PROMETHEUS_IMAGE": build_prometheus(project.engine)} if project.engine.base else {}
    names = ("prometheus",) if own else ("prometheus", "grafana")
    own |= {"PROMETHEUS_PORT": str(port), "GRAFANA_PORT": str(free_port())}
    try:
        project.compose(*OBSERVABILITY, "up", "--detach", "--no-build", "--no-recreate", *names, **own)
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False) as http:
            yield http
    finally:
        project.compose(*OBSERVABILITY, "rm", "--stop", "--force", "--volumes", *names, **own)


def targets(http: httpx.Client) -> dict[str, str]:
    """What Prometheus scrapes, by process: up, down or unknown."""
    with contextlib.suppress(httpx.TransportError):
        answered = http.get("/api/v1/targets")
        active = answered.json()["data"]["activeTargets"] if answered.status_code == 200 else ()
        return {target["labels"]["process"]: target["health"] for target in active}
    return {}


def test_nothing_set_serves_the_demo_on_two_engines(stack: Project) -> None:
    """Engines are named after their containers; a prompt that was computed once is a hit for all who ask again."""
    assert stack.engines() == {"engine-1", "engine-2"}
    prompt = " ".join(f"w{n}" for n in range(100))
    stack.ask(prompt)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(stack.ask, [prompt] * 8))

    assert min(a["usage"]["prompt_tokens_details"]["cached_tokens"] for a in answers) >= 96
    assert len({a["choices"][0]["message"]["content"] for a in answers}) == 1
    assert {a["model"] for a in answers} == {"demo"}


def test_the_first_request_of_the_readme_is_answered(stack: Project) -> None:
    """As it stands there, but for the port."""
    block = (ROOT / "README.md").read_text().partition("docker compose up")[2].partition("```")[0]
    command = "curl" + block.partition("curl")[2].replace(":8000", f":{stack.port}")
    told = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=90, check=True).stdout

    assert len(json.loads(told)["choices"][0]["message"]["content"].split()) == 8


@pytest.mark.parametrize("service", ["kvstore", "engine", "gateway"])
def test_status_works_in_every_container(stack: Project, service: str) -> None:
    """`quire status` needs no flag there, and shows the sessions of both engines."""
    assert stack.compose("exec", "-T", service, "quire", "status").count("engine-") == 2


def test_keys_are_in_the_gateway_alone(stack: Project) -> None:
    """The folder of keys is there, and in no other container."""
    seeing = {
        service: stack.compose(
            "exec", "-T", service, "python3", "-c", "import os; print(os.path.exists('/etc/quire-keys'))"
        )
        for service in ("gateway", "engine", "kvstore")
    }

    assert seeing == {"gateway": "True", "engine": "False", "kvstore": "False"}


def test_engines_use_kernels_compiled_ahead(stack: Project) -> None:
    """There is no compiler in the image, and the library for this processor loads under torch's threads."""
    code = "import torch; from quire_kernels.cpu.host_library import load; print(load()._name)"

    assert "/share/quire/kernels/cpu-x86-64-v" in stack.compose("exec", "-T", "engine", "python3", "-c", code)


def test_prometheus_reads_every_process(stack: Project) -> None:
    """With the profile `observability` all targets are up, and the alert rules are loaded and healthy."""
    monitored = {f"engine-{n}" for n in (1, 2)} | {"gateway", "kvstore"}
    with prometheus(stack) as http:
        wait_for(lambda: set(targets(http).items()) == {(name, "up") for name in monitored}, "targets up", 120)
        blocks = http.get("/api/v1/query", params={"query": "sum(quire_kvstore_blocks)"}).json()["data"]["result"]
        groups = http.get("/api/v1/rules").json()["data"]["groups"]

    assert float(blocks[0]["value"][1]) > 0
    assert {rule["health"] for group in groups for rule in group["rules"]} <= {"ok", "unknown"}
    assert len(groups) > 0


def test_metrics_are_refused_at_the_published_port(stack: Project) -> None:
    """Who comes from outside does not read them."""
    assert httpx.get(f"http://127.0.0.1:{stack.port}/metrics").status_code == 403


@pytest.mark.parametrize(("service", "bound"), [("engine", ENGINE_S), ("kvstore", KVSTORE_S)])
def test_a_killed_process_costs_no_answer(stack: Project, service: str, bound: float) -> None:
    """kill -9 of an engine or the kvstore under load: every request is answered, and new ones within seconds."""
    with stack.load() as failed:
        stack.kill(service)
        took = stack.back_after(f"kill -9 {service}")
        wait_for(lambda: len(stack.engines()) == 2, "both engines again", READY_S)

    assert failed == []
    assert took <= 3 * bound


def test_a_killed_gateway_is_back(stack: Project) -> None:
    """kill -9 of the gateway: what it carried is gone, and it answers again within seconds."""
    stack.kill("gateway")
    assert stack.back_after("kill -9 gateway") <= 3 * GATEWAY_S


def test_a_paused_engine_stops_nobody_else(stack: Project) -> None:
    """While one engine stands still the other one answers; when it goes on, it serves again."""
    paused = stack.container("engine")
    stack.engine.docker("pause", paused)
    try:
        stack.back_after("pause of an engine")
        over = time.monotonic() + PAUSED_S
        while time.monotonic() < over:
            assert stack.answers()
    finally:
        stack.engine.docker("unpause", paused)
    wait_for(lambda: len(stack.engines()) == 2, "the engine that stood still", READY_S)


def test_a_restart_brings_everything_back(stack: Project) -> None:
    """`docker compose restart`, again and again: every container comes back, and the stack answers."""
    for number in range(1, RESTARTS + 1):
        stack.compose("restart", "--timeout", "15")
        stack.back_after(f"restart {number}")
    wait_for(lambda: len(stack.engines()) == 2, "both engines", READY_S)


def test_scaling_under_load_costs_no_answer(stack: Project) -> None:
    """Two engines, four, one: those that go hand over what they have, and no request fails."""
    with stack.load() as failed:
        for engines in (4, 1):
            stack.compose("up", "--detach", "--no-build", "--no-recreate", "--scale", f"engine={engines}")
            wait_for(lambda engines=engines: len(stack.engines()) == engines, f"{engines} engines", READY_S)

    assert failed == []


def test_down_leaves_nothing(stack: Project) -> None:
    """No container, no volume, no network."""
    stack.compose(*OBSERVABILITY, "down", "--volumes")

    assert stack.left() == ""
