"""Hostile arguments of the commands that ask a running kvstore, and of those that start one."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from quire_services.config import input_files
from quire_services.config.settings import SECTIONS
from quire_services.gateway.admin.token import AdminToken, TokenError
from tests.support.kvstore import Kvstore
from tests.support.quire_command import Quire

NUMBERS = ("-1", "x", "", "9" * 5_000, "1.5", "nan", str(2**31), str(2**63), str(2**64), "half \udc80")
NAMES = ("half \udc80 pair", "null\0byte", "new\nline", "x" * 100_000, "")


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of a running kvstore."""
    path = tmp_path_factory.mktemp("arguments") / "run"
    path.mkdir(mode=0o700)
    process = Kvstore(path).start()
    yield path
    assert process.end(signal.SIGTERM) == 0


@pytest.mark.process
@pytest.mark.parametrize("option", ["--limit", "--guarantee", "--weight"])
def test_numbers_of_a_quota(quire: Quire, run_dir: Path, option: str) -> None:
    """What is no count is refused naming the option, before the kvstore hears of it."""
    for number in NUMBERS:
        quire("tenant", "set", "t", f"{option}={number}", "--run-dir", run_dir).complains(option)


@pytest.mark.process
@pytest.mark.parametrize(
    "words",
    [
        ("tenant", "set", "NAME", "--limit", "5"),
        ("group", "join", "g", "NAME"),
        ("group", "join", "NAME", "t"),
        ("group", "leave", "NAME", "t"),
        ("prefix", "unpublish", "NAME"),
    ],
    ids=" ".join,
)
def test_names_that_cannot_be(quire: Quire, run_dir: Path, words: tuple[str, ...]) -> None:
    """Half of a surrogate pair, control characters, one too long, none: refused in a line, and nothing is kept."""
    for name in NAMES:
        quire(*(name if word == "NAME" else word for word in words), "--run-dir", run_dir).complains(
            f"quire {words[0]}: "
        )
    assert quire("group", "list", "--json", "--run-dir", run_dir).out == "[]\n"


def test_a_token_file_that_is_a_pipe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is never written to is given up; one with a token and no writer is read to its end."""
    monkeypatch.setattr(input_files, "SILENCE_S", 0.1)
    pipe = tmp_path / "token"
    os.mkfifo(pipe, 0o600)
    with pytest.raises(TokenError, match="nothing came out of it"):
        AdminToken(tmp_path, str(pipe))
    reading, writing = os.pipe()
    os.write(writing, b"a" * 20)
    os.close(writing)
    assert AdminToken(tmp_path, f"/dev/fd/{reading}").operator({"authorization": "Bearer " + "a" * 20})
    os.close(reading)


def test_run_directories_without_a_kvstore(quire: Quire, tmp_path: Path) -> None:
    """Nothing there, a file, a name that cannot be, and one where something else has the socket's name."""
    (tmp_path / "file").touch()
    (tmp_path / "kvstore.sock").touch()
    named = {str(tmp_path / "gone"): "gone", str(tmp_path / "file"): "file", str(tmp_path): tmp_path.name}
    for directory, name in (named | {"null\0byte": "run_dir", "half \udc80": "run_dir", "x" * 5000: "xxx"}).items():
        for words in (("tenant", "list"), ("group", "list"), ("prefix", "list"), ("status",)):
            quire(*words, f"--run-dir={directory}").complains(name)


@pytest.mark.parametrize("section", SECTIONS)
def test_settings(quire: Quire, tmp_path: Path, section: str) -> None:
    """Every setting, as a flag and in the file: no text of several lines, no number out of bounds, no other type."""
    shut = tmp_path / "open to all"
    shut.mkdir()
    shut.chmod(0o755)
    (shut / "something").touch()
    file = tmp_path / "quire.toml"
    for spec in fields(SECTIONS[section]):
        text = spec.type == "str"
        flags = ("null\0byte", "new\nline", "half \udc80") if text else ("x", "", "9" * 5_000, "nan", str(10**400))
        for value in flags:
            option = f"--{spec.name.replace('_', '-')}={value}"
            quire("serve", "--run-dir", shut, option).complains(f"{section}.{spec.name}: ")
        for value in ('"a\\u0000b"', "[]", "{}", "1979-05-27", str(10**400), "nan", "-inf"):
            file.write_text(f"[{section}]\n{spec.name} = {value}")
            quire("serve", "--config", file).complains(f"{section}.{spec.name}: ")
