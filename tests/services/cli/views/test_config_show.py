"""``quire config show``: each setting, its value and where it comes from, and no secret."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from quire_services.config.settings import SECTIONS
from tests.support.quire_command import Quire, command

TEXT = """
[kvstore]
kv_gib = 2.5
[gateway]
port = 8100
served_model_name = "a \\"b\\""
[[tenants]]
name = "acme"
keys = ["secret-7", "secret-8"]
groups = ["research"]
[[published]]
file = "prompts/agent.txt"
"""


@pytest.fixture
def quire(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Quire]:
    with command(capsys, monkeypatch) as quire:
        yield quire


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("QUIRE_KVSTORE_BLOCK_SIZE", "32")
    (tmp_path / "quire.toml").write_text(TEXT)
    return tmp_path / "quire.toml"


def test_each_setting_has_its_value_and_origin(quire: Quire, file: Path) -> None:
    """All settings there are, from a default, the file, the environment or a flag, which counts over the others."""
    ran = quire("config", "show", "--json", f"--config={file}", "--port=8200", "--engines=3")
    settings = json.loads(ran.out)["settings"]
    assert set(settings) == {f"{name}.{spec.name}" for name, section in SECTIONS.items() for spec in fields(section)}
    assert settings["kvstore.kv_gib"] == {"value": 2.5, "origin": "file", "where": f"{file}, [kvstore]"}
    variable = {"value": 32, "origin": "environment", "where": "QUIRE_KVSTORE_BLOCK_SIZE in the environment"}
    assert settings["kvstore.block_size"] == variable
    assert settings["gateway.port"] == {"value": 8200, "origin": "flag", "where": "flag --port"}
    assert settings["kvstore.dtype"] == {"value": "auto", "origin": "default", "where": ""}


def test_the_text_is_a_file_that_says_the_same(quire: Quire, file: Path) -> None:
    """It can be read back; ``--changed`` leaves the defaults out."""
    ran = quire("config", "show", "--changed", f"--config={file}", "--engines=3")
    found = tomllib.loads(ran.out)
    assert found["serve"] == {"engines": 3}
    assert found["kvstore"] == {"kv_gib": 2.5, "block_size": 32}
    assert found["gateway"] == {"port": 8100, "served_model_name": 'a "b"'}
    assert found["tenants"] == [{"name": "acme", "groups": ["research"]}]
    assert found["published"][0]["file"] == str(file.parent / "prompts/agent.txt")
    assert "# 2 keys, in " in ran.out
    assert "engines = 3" in ran.out
    assert "# flag --engines" in ran.out
    whole = tomllib.loads(quire("config", "show", f"--config={file}").out)
    assert {name: set(whole[name]) for name in SECTIONS} == {
        name: {spec.name for spec in fields(section)} for name, section in SECTIONS.items()
    }


def test_no_key_is_shown(quire: Quire, file: Path) -> None:
    """In neither form."""
    for form in ("--json", "--changed"):
        ran = quire("config", "show", form, f"--config={file}")
        assert (ran.code, "secret" in ran.out) == (0, False)


def test_a_mistake_is_one_line(quire: Quire, file: Path) -> None:
    """As for every other command that reads the configuration."""
    quire("config", "show", f"--config={file}", "--kv-gib=1", "--kv-fraction=0.5").complains("the pool has one size")
