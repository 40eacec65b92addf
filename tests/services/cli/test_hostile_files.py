"""Commands that are given hostile files: a status of 1 or 2 and one line that names the file, whatever is in it."""

from __future__ import annotations

import gzip
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bench.eviction import replay
from bench.models.tiny import make_model
from quire_services.gateway.published_prompts import prompt_files
from tests.services.config.test_fuzzed_files import VALUES
from tests.support.quire_command import Quire, Ran, prepared
from tests.support.service import LAYOUT

FUZZ = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
CONTENTS = {
    "random": bytes(range(256)),
    "nothing": b"",
    "deep list": b"[" * 100_000,
    "deep map": b'{"a":' * 100_000,
    "many digits": b"9" * 5_000,
    "null byte": b"a\0b",
    "byte order mark": b"\xef\xbb\xbf[]",
    "nan": b"[NaN]",
    "half a pair": b'"\\ud800"',
    "latin-1": b"caf\xe9",
    "wrong type": b"[1, 2, 3]",
}
# A system message may be any text but none; these are what the commands complain of next: no stack serves here.
WELCOME = {("system", name) for name in CONTENTS if name not in ("random", "nothing", "latin-1")} | {
    ("serve", "nothing")
}
ROW = {"ts": 0, "in": 3, "out": 1, "s": -1, "b": [[0, 2]]}
HEADER = {"trace": "t", "block_tokens": 16}


@pytest.fixture
def quire(quire: Quire, monkeypatch: pytest.MonkeyPatch) -> Quire:
    monkeypatch.setattr(replay, "MAX_BYTES", 1 << 20)
    monkeypatch.setattr(prompt_files, "MAX_BODY_BYTES", 1 << 20)
    return quire


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model that takes at most 64 tokens."""
    folder = tmp_path_factory.mktemp("cli") / "model"
    return make_model(folder, vocab=64, hidden=32, heads=2, kv_heads=1, max_len=64)


@pytest.fixture
def commands(tmp_path: Path, model: Path) -> dict[str, Callable[[object], list[object]]]:
    """Command lines by what they read; each would fail later, too, so that none begins to serve."""
    run_dir, shut = tmp_path / "run", tmp_path / "open to all"
    run_dir.mkdir(mode=0o700)
    shut.mkdir()
    shut.chmod(0o755)
    (shut / "something").touch()
    prepared(run_dir, model_dir=str(model))
    system = tmp_path / "system.txt"
    system.write_text("w1 w2")
    publish = ["prefix", "publish", "--domain", "public", "--run-dir", run_dir, "--id", "x"]
    return {
        "system": lambda file: [*publish, "--file", file],
        "tools": lambda file: [*publish, "--file", system, "--tools", file],
        "request": lambda file: [*publish, "--from-request", file],
        "serve": lambda file: ["serve", "--model", model, "--run-dir", shut, "--config", file],
        "prepared": lambda file: ["kvstore", "--arena", "shm", "--run-dir", shut, "--prepared", file],
        "trace": lambda file: ["bench", "replay", "--capacity-blocks", 8, file],
    }


READERS = ("system", "tools", "request", "serve", "prepared", "trace")


@pytest.mark.parametrize("what", READERS)
def test_hostile_contents(quire: Quire, tmp_path: Path, commands: dict[str, Any], what: str) -> None:
    """Bytes, nesting and digits without end, other types, and things that are no text."""
    file = tmp_path / "hostile"
    for name, content in CONTENTS.items():
        file.write_bytes(content)
        ran = quire(*commands[what](file))
        if (what, name) in WELCOME:
            ran.complains("")  # of something else
        else:
            ran.complains(str(file))


@pytest.mark.parametrize("what", READERS)
def test_hostile_paths(quire: Quire, tmp_path: Path, commands: dict[str, Any], what: str) -> None:
    """A directory, nothing, a pipe without a writer, a device without end, and names that cannot be."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path, tmp_path / "gone", tmp_path / "pipe", "/dev/zero", "/dev/null/below"):
        quire(*commands[what](path)).complains(str(path))
    for path in ("null\0byte", "new\nline", "half \udc80 pair", "x" * 5000):
        quire(*commands[what](path)).complains(path[:3])


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
@pytest.mark.parametrize("what", READERS)
def test_unreadable_files(quire: Quire, tmp_path: Path, commands: dict[str, Any], what: str) -> None:
    """A file whose mode forbids it."""
    file = tmp_path / "shut"
    file.touch(mode=0o000)
    quire(*commands[what](file)).complains(str(file))


def test_a_pipe_with_a_writer_is_read(quire: Quire, tmp_path: Path, commands: dict[str, Any]) -> None:
    """As in ``--file <(command)``: all that is written comes through, and then the next complaint."""
    reading, writing = os.pipe()
    os.write(writing, b"w1 w2 w3")
    os.close(writing)
    quire(*commands["system"](f"/dev/fd/{reading}")).complains("no kvstore answers")
    os.close(reading)


def zipped(*lines: object) -> bytes:
    """A trace of these lines."""
    return gzip.compress(b"\n".join(x if isinstance(x, bytes) else json.dumps(x).encode() for x in lines))


def either(ran: Ran, file: Path) -> None:
    """It did what it was asked, or complained."""
    if ran.code:
        ran.complains(str(file))


@FUZZ
@given(st.sampled_from([*HEADER, *ROW]), VALUES | st.lists(st.lists(st.integers(), min_size=2, max_size=2), max_size=3))
@example("b", [[0, 10**9], [5, -(10**9)]])
@example("b", [[2**64 - 1, 2]])
@example("out", 10**400)
@example("out", -5)
@example("block_tokens", 2**40)
@example("trace", "\ud800\n")
def test_traces(quire: Quire, tmp_path: Path, field: str, value: object) -> None:
    """A trace with one field of another kind is replayed or refused by line."""
    file = tmp_path / "trace.gz"
    if field in HEADER:
        file.write_bytes(zipped(HEADER | {field: value}, ROW))
    else:
        file.write_bytes(zipped(HEADER, ROW, ROW | {field: value}))
    either(quire("bench", "replay", "--capacity-blocks", 8, "--json", file), file)


def test_zipped_traces(quire: Quire, tmp_path: Path) -> None:
    """Nesting behind a header, half a file, and one that unpacks to more than a trace may be."""
    file = tmp_path / "trace.gz"
    for content in (zipped(HEADER, b"[" * 100_000), zipped(HEADER, ROW)[:-6], gzip.compress(bytes(1 << 21))):
        file.write_bytes(content)
        quire("bench", "replay", "--capacity-blocks", 8, file).complains(str(file))


@FUZZ
@given(st.sampled_from(["layout", "published", "model", *asdict(LAYOUT)]), VALUES)
@example("num_layers", 2**62)
@example("block_size", 2**62)
@example("published", [{"id": "p", "domain": "public", "tokens": [-1]}])
@example("published", [{"id": "\ud800", "domain": "\0", "tokens": [1]}])
def test_prepared_files(quire: Quire, commands: dict[str, Any], tmp_path: Path, field: str, value: object) -> None:
    """A kvstore given one with a field of another kind complains: of that, of the pool's size, or of its directory."""
    in_layout = field in asdict(LAYOUT)
    file = prepared(tmp_path, **({"layout": asdict(LAYOUT) | {field: value}} if in_layout else {field: value}))
    quire(*commands["prepared"](file)).complains("quire kvstore: ")


@FUZZ
@given(VALUES)
@example(None)
@example({"function": {"name": 10**400, "parameters": "\ud800"}})
def test_tools(quire: Quire, commands: dict[str, Any], tmp_path: Path, value: Any) -> None:
    """Tools of any shape are rendered or refused; a command that rendered them finds no kvstore next."""
    for _ in range(900 if value is None else 0):  # as deep as JSON may be
        value = {"a": value}
    file = tmp_path / "tools.json"
    file.write_text(json.dumps([value]))
    quire(*commands["tools"](file)).complains("quire prefix: ")


@pytest.mark.process
@pytest.mark.parametrize("what", ["system", "serve", "trace"])
def test_as_a_process(tmp_path: Path, commands: dict[str, Any], what: str) -> None:
    """The same of the real thing: one line on stderr, nothing on stdout, and no traceback."""
    file = tmp_path / "hostile"
    file.write_bytes(CONTENTS["latin-1"])
    line = [sys.executable, "-P", "-m", "quire_services.cli", *map(str, commands[what](file))]
    ended = subprocess.run(line, capture_output=True, text=True, timeout=60)
    Ran(ended.returncode, ended.stdout, ended.stderr).complains(str(file))
