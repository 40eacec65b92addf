"""A stack's model by its name on the hub: fetched before anything is started, then taken from the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from tests.support.hub_server import Hub, Repository, hub_server
from tests.support.stack import running_stack

NAME = "org/tiny"
QUIRE = [sys.executable, "-P", "-m", "quire_services.cli"]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    """A hub with a tiny model, in bfloat16."""
    model = make_model(tmp_path_factory.mktemp("hub") / "model", layers=1, vocab=64, hidden=32, max_len=64)
    fields = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps(fields | {"dtype": "bfloat16"}))
    with hub_server() as hub:
        hub.repositories[NAME] = Repository.of(model)
        yield hub


@pytest.fixture
def environ(hub: Hub, tmp_path: Path) -> dict[str, str]:
    """A user's environment, with that hub and an empty cache."""
    home = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "0"}
    return {**{k: v for k, v in os.environ.items() if not k.startswith(("HF_", "QUIRE_"))}, **home}


def run(environ: dict[str, str], *arguments: object) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    command = [*QUIRE, *map(str, arguments)]
    return subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)


def test_a_model_that_cannot_be_fetched_starts_nothing(environ: dict[str, str], tmp_path: Path) -> None:
    """The last line is the reason, and there is no run directory."""
    ran = run(environ, "serve", "--model=org/none", f"--run-dir={tmp_path / 'run'}", "--port=0")

    assert ran.returncode == 2
    assert "serve.model: " in ran.stderr.splitlines()[-1]
    assert "has no model org/none" in ran.stderr.splitlines()[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_model_is_fetched_and_prepared_without_a_network(environ: dict[str, str], tmp_path: Path) -> None:
    """`quire fetch` says how far it has come and prints the directory, which `prepare` finds with no hub to ask."""
    fetched = run(environ, "fetch", "--model", NAME)
    assert fetched.returncode == 0, fetched.stderr
    assert (Path(fetched.stdout.strip()) / "model.safetensors").is_file()
    assert "1 file(s)" in fetched.stderr

    file = tmp_path / "prepared.json"
    alone = {**environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HUB_OFFLINE": "1"}
    prepared = run(alone, "prepare", "--model", NAME, "--out", file)
    assert prepared.returncode == 0, prepared.stderr
    assert f'"model": "{NAME}"' in file.read_text()


@pytest.mark.slow
def test_a_stack_serves_a_model_of_the_hub(
    environ: dict[str, str], hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its first start fetches the weights once for all engines, the next one asks the hub nothing, and both compute in
    the checkpoint's type."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    for first in (True, False):
        hub.asked.clear()
        with running_stack(tmp_path, Path(NAME), engines=2, blocks=64) as stack:
            assert stack.complete([5, 6, 7], max_tokens=4)["choices"]
            stack.says("bfloat16, as in the checkpoint")
        assert hub.fetched().count("model.safetensors") == int(first)
        assert bool(hub.asked) == first
