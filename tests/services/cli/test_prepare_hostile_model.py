"""``quire prepare`` of a model whose files are hostile: transformers reads them and may raise anything."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from tests.services.cli.test_hostile_files import CONTENTS
from tests.support.quire_command import Quire

VALUES = (True, -1, 0, 1e308, 10**400, "half \ud800", "null\0byte", "new\nline", [], {}, [[]], {"a": 1}, "{{ x.y.z }}")


@pytest.fixture
def prepare(tmp_path: Path) -> list[object]:
    """A command line for a tiny model with a published prompt; it cannot write what it prepared."""
    make_model(tmp_path / "model", vocab=64, hidden=32, heads=2, kv_heads=1, max_len=64)
    (tmp_path / "system.txt").write_text("w1 w2")
    (tmp_path / "quire.toml").write_text('[[published]]\nfile = "system.txt"')
    out = tmp_path / "gone" / "prepared.json"
    return ["prepare", "--model", tmp_path / "model", "--config", tmp_path / "quire.toml", "--out", out]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json"])
def test_contents(quire: Quire, tmp_path: Path, prepare: list[object], name: str) -> None:
    """Bytes, nesting and digits without end in the place of each file."""
    for content in CONTENTS.values():
        (tmp_path / "model" / name).write_bytes(content)
        quire(*prepare).complains(str(tmp_path / "model"))


@pytest.mark.parametrize(
    ("name", "keys"),
    [
        ("config.json", ("model_type", "hidden_size", "num_attention_heads", "rope_parameters", "head_dim")),
        ("tokenizer_config.json", ("tokenizer_class", "chat_template", "bos_token")),
    ],
)
def test_values(quire: Quire, tmp_path: Path, prepare: list[object], name: str, keys: tuple[str, ...]) -> None:
    """Keys of another type: refused, or not looked at, and then the place for the result is complained of."""
    file = tmp_path / "model" / name
    right = json.loads(file.read_text())
    for key in keys:
        for value in VALUES:
            file.write_text(json.dumps(right | {key: value}))
            quire(*prepare).complains("quire prepare: ")


def test_places_for_the_result(quire: Quire, tmp_path: Path, prepare: list[object]) -> None:
    """A directory, one that is not there, and names that cannot be."""
    for place in (tmp_path, tmp_path / "gone" / "x", "/dev/null/below", "null\0byte", "x" * 5000):
        quire(*prepare[:-1], place).complains("--out")
