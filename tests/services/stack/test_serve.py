"""``quire serve`` and ``quire status`` as a user runs them: a life of a real stack, and mistakes that end it early."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from tests.support.ports import free_port
from tests.support.stack import running_stack
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
QUIRE = [sys.executable, "-m", "quire_services.cli"]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model."""
    return make_model(tmp_path_factory.mktemp("serve") / "model", vocab=128, hidden=32, heads=2, kv_heads=1)


def quire(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run one subcommand to its end."""
    return subprocess.run([*QUIRE, *arguments], capture_output=True, text=True, timeout=60)


def test_one_life_of_a_stack(tmp_path: Path, model: Path) -> None:
    """It says when it is ready, and proposes a command that works; a second one is refused; a killed engine and gateway
    come back; status agrees; it goes on without its supervisor until the next one takes over; the stop leaves nothing
    (which ``running_stack`` insists on)."""
    with running_stack(tmp_path, model, engines=1, blocks=64) as stack:
        directory = f"--run-dir={stack.run_dir}"
        wait_for(lambda: "ready: http://127.0.0.1:" in stack.log.read_text(), "it says so", 10)
        wait_for(lambda: "  curl " in stack.log.read_text(), "it proposes a command", 10)
        screen = stack.log.read_text().rpartition("ready: http")[2]
        assert (
            f"  pool     64 blocks, 1,024 tokens, {64 * stack.stats().layout.block_bytes / 2**30:.2f} GiB (" in screen
        )
        command = next(line for line in screen.splitlines() if line.startswith("  curl "))
        answer = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)
        asked: int = json.loads(answer.stdout)["usage"]["prompt_tokens"]

        second = quire("serve", f"--model={model}", directory)
        assert (second.returncode, "another stack" in second.stderr) == (2, True)

        before = stack.ready_sessions()["engine-1"]
        os.kill(before, signal.SIGKILL)
        os.kill(stack.pid_of("gateway"), signal.SIGKILL)
        wait_for(lambda: stack.ready_sessions().get("engine-1", before) != before, "the engine is back", 60)
        wait_for(lambda: stack.health() == 200, "the gateway is back", 60)
        assert len(stack.complete([7, 8, 9, 10] * 8, max_tokens=2)["choices"]) == 1

        told = quire("status", "--json", directory)
        status = json.loads(told.stdout)
        assert told.returncode == 0
        assert status["num_blocks"] == 64
        assert sum(status["blocks"][state] for state in ("free", "held", "cached", "quarantined")) == 64
        assert status["counters"]["prompt_tokens"] == asked + 32
        assert [s["name"] for s in status["sessions"]] == ["engine-1"]
        assert quire("status", directory, "--session=engine-1").stdout == "engine-1: ready\n"
        assert quire("status", directory, "--session=engine-9").returncode == 1
        assert "engine-1 was killed by SIGKILL" in stack.log.read_text()

        running = stack.ready_sessions()
        stack.kill_supervisor()
        assert "no supervisor watches" in quire("status", directory).stdout
        assert len(stack.complete([7, 8, 9], max_tokens=2)["choices"]) == 1
        stack.serve()
        stack.says("ready: http", 2)
        stack.says("engine-1 goes on (pid ")
        assert stack.ready_sessions() == running


def test_a_configuration_that_cannot_work_ends_the_stack(tmp_path: Path, model: Path) -> None:
    """What a process refuses before the stack was ever ready is said once and not tried again."""
    run_dir = tmp_path / "run"
    (tmp_path / "quire.toml").write_text('[[published]]\nfile = "gone.txt"\n')
    told = quire("serve", f"--model={model}", f"--run-dir={run_dir}", f"--config={tmp_path / 'quire.toml'}")

    assert told.returncode == 1
    assert "gone.txt: No such file" in told.stderr
    assert "before the stack was ready" in told.stdout
    assert not run_dir.exists()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["serve", "--model", "/nowhere"], "serve.model: '/nowhere'"),
        (["serve", "--blocks", "many"], "kvstore.blocks: 'many' is not a whole number (from flag --blocks)"),
        (["serve", "--colour", "red"], "--colour"),
        (["kvstore", "--config", "/nowhere.toml"], "/nowhere.toml"),
        (["dance"], "'dance' is not a command"),
    ],
)
def test_mistakes_are_one_line_and_exit_code_two(arguments: list[str], words: str) -> None:
    """Wrong flags, values and commands: one line that names them, no traceback."""
    told = quire(*arguments)

    assert told.returncode == 2
    assert words in told.stderr
    assert len(told.stderr.splitlines()) == 1


def test_status_without_a_kvstore_is_one_line(tmp_path: Path) -> None:
    """No stack there: exit code 1 and where it was looked for."""
    told = quire("status", "--json", f"--run-dir={tmp_path}", f"--port={free_port()}")

    assert (told.returncode, told.stdout) == (1, "")
    assert f"no kvstore answers in {tmp_path}" in told.stderr


def test_help_names_every_command() -> None:
    """``quire --help`` is a page a newcomer can read."""
    told = quire("--help")

    assert told.returncode == 0
    for command in ("serve", "status", "kvstore", "engine", "gateway", "prepare"):
        assert f"\n  {command}" in told.stdout
