"""``quire declare``: a file becomes records, the difference and nothing else is written, and mistakes are one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from quire_services.config.key_digests import key_digest
from tests.support.quire_command import Quire

DECLARED = """
[[tenants]]
name = "ann"
keys = ["sk-ann", "sk-old"]
groups = ["g"]
limit = 100
[[published]]
id = "p"
file = "p.txt"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "store").mkdir()
    (tmp_path / "p.txt").write_text("You are careful.")
    (tmp_path / "cluster.toml").write_text(DECLARED)
    return tmp_path / "cluster.toml"


def test_a_file_is_applied_once(quire: Quire, file: Path) -> None:
    """The same again writes nothing; keys are in the store by their digests alone."""
    store = f"--store=file://{file.parent / 'store'}"
    assert quire("declare", "apply", file, store).out.startswith("6 written, 0 deleted, version ")
    assert quire("declare", "apply", file, store).out.startswith("0 written, 0 deleted, version ")
    rows = json.loads(quire("declare", "list", "--json", store).out)
    assert sorted(row["kind"] for row in rows) == ["key", "key", "member", "publication", "quota", "tenant"]
    kept = (file.parent / "store" / "default" / "declared.json").read_text()
    assert "sk-ann" not in kept
    assert key_digest("sk-ann").hex() in kept


def test_what_the_file_does_not_name_stays_until_it_is_pruned(quire: Quire, file: Path) -> None:
    """And is named, keys by the beginning of their digests; pruned, it is a tombstone."""
    store = f"--store=file://{file.parent / 'store'}"
    quire("declare", "apply", file, store)
    file.write_text('[[tenants]]\nname = "ann"\nkeys = ["sk-ann"]\n')
    said = quire("declare", "apply", file, store).out
    assert f"key sha256:{key_digest('sk-old').hex()[:12]}" in said
    assert "4 declared before and not in" in said
    assert quire("declare", "apply", file, store, "--prune").out.startswith("0 written, 4 deleted")
    rows = json.loads(quire("declare", "list", "--json", store).out)
    assert sorted(row["kind"] for row in rows if row["value"] is None) == ["key", "member", "publication", "quota"]


def test_a_key_is_revoked_by_its_digest(quire: Quire, file: Path) -> None:
    """Never by itself, which the shell would keep; a beginning of none, or of two, ends nothing."""
    store = f"--store=file://{file.parent / 'store'}"
    quire("declare", "apply", file, store)
    digest = f"sha256:{key_digest('sk-old').hex()}"
    quire("declare", "revoke", "sk-old", store).complains("name a key by sha256:")
    quire("declare", "revoke", "sha256:" + "0" * 12, store).complains("no keys are declared")
    assert quire("declare", "revoke", digest[:19], store).out.startswith(f"revoked {digest[:19]} of ann")
    quire("declare", "revoke", digest[:19], store).complains("no keys are declared")


@pytest.mark.parametrize(
    ("was", "is_now", "complaint"),
    [
        ("limit = 100", "limits = 100", "tenants.0.limits"),
        ("limit = 100", "limit = 100\nguarantee = 101", "a guarantee of 101 is more than the limit"),
        ('groups = ["g"]', 'groups = ["public"]', "'public' is reserved"),
        ('"sk-old"', '"sk-ann"', "a key is there twice"),
        ('"sk-old"', '"sha256:abc"', "64 hex digits"),
        ('file = "p.txt"', 'file = "none.txt"', "none.txt"),
        ("[[tenants]]", "[[tenants", "cluster.toml"),
    ],
)
def test_a_mistake_writes_nothing(quire: Quire, file: Path, was: str, is_now: str, complaint: str) -> None:
    """One line says what is wrong, without a key in it."""
    file.write_text(DECLARED.replace(was, is_now))
    ran = quire("declare", "apply", file, f"--store=file://{file.parent / 'store'}")
    ran.complains(complaint)
    assert "sk-" not in ran.err
    assert list((file.parent / "store").iterdir()) == []


def test_a_store_that_is_not_there_is_one_line(quire: Quire, file: Path) -> None:
    """Of each kind."""
    quire("declare", "list", "--store=valkey://127.0.0.1:1/0").complains("the store does not answer")
    quire("declare", "apply", file, f"--store=file://{file.parent / 'away'}").complains("there is no directory")
    assert quire("declare", "nodes", f"--store=file://{file.parent / 'store'}").out == "no node follows this store\n"
