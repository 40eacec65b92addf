"""A weights key: equal for what gives the same numbers, another one for whatever may give others."""

from __future__ import annotations

import os
from dataclasses import fields, replace
from pathlib import Path

import pytest

from quire_engine.checkpoint.weights import identity
from quire_engine.checkpoint.weights.identity import code_version, weights_key


@pytest.fixture
def fresh(monkeypatch):
    """The version of the code is computed anew."""
    code_version.cache_clear()
    yield monkeypatch
    code_version.cache_clear()


def checkpoint_in(directory: Path, size: int = 100) -> Path:
    """A directory with one file of weights."""
    directory.mkdir()
    (directory / "model.safetensors").write_bytes(bytes(size))
    return directory


def test_a_copy_of_a_checkpoint_has_the_same_key(tmp_path):
    """Wherever it lies and whenever it was written, as long as all of it was hashed."""
    first, second = checkpoint_in(tmp_path / "a"), checkpoint_in(tmp_path / "b")
    os.utime(second / "model.safetensors", (1, 1))
    assert weights_key(first, "c", "float32") == weights_key(second, "c", "float32")


def test_a_large_file_in_the_place_of_another_changes_the_key(tmp_path, monkeypatch):
    """Of which samples are hashed alone: what is between them may differ."""
    monkeypatch.setattr(identity, "WHOLE_FILE", 99)
    directory = checkpoint_in(tmp_path / "a")
    key = weights_key(directory, "c", "float32")
    assert weights_key(directory, "c", "float32") == key
    os.utime(directory / "model.safetensors", (1, 1))
    assert weights_key(directory, "c", "float32") != key


def test_every_field_counts(tmp_path):
    """A key that differs in one of them has another name."""
    key = weights_key(checkpoint_in(tmp_path / "a"), "c", "float32", "panels", "avx2")
    others = [replace(key, **{field.name: "other"}) for field in fields(key)]
    assert len({key.name, *(other.name for other in others)}) == 1 + len(others)


def test_fields_do_not_run_into_each_other(tmp_path):
    """What one field gives to the next is another name."""
    directory = checkpoint_in(tmp_path / "a")
    assert weights_key(directory, "c", "a", "bc").name != weights_key(directory, "c", "ab", "c").name


def test_another_library_is_another_version(fresh):
    """An upgrade may convert weights in another way."""
    before = code_version()
    code_version.cache_clear()
    fresh.setattr(identity, "version", lambda library: f"{library} 99")
    assert code_version() != before


def test_changed_sources_are_another_version(fresh, tmp_path):
    """Their content counts, and a new file; when they were written does not."""
    fresh.setattr(identity, "_CODE", (tmp_path,))
    seen = []
    for name, text in (("a.py", "x = 1"), ("a.py", "x = 2"), ("b.c", ""), ("notes.txt", "")):
        (tmp_path / name).write_text(text)
        seen.append(code_version())
        code_version.cache_clear()
    os.utime(tmp_path / "a.py", (1, 1))
    assert len(set(seen)) == 3
    assert code_version() == seen[-1] == seen[-2]
