"""Files that people write: whatever is in them, it is used, or refused in one line that names the file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quire_kvstore.host.saved import Declarations
from quire_kvstore.host.state_dir import StateDir, StateError
from quire_kvstore.server import quota
from quire_kvstore.sharing.publications import PublicationList
from quire_services.cli.prefix import served_model
from quire_services.config.loader import ConfigError, load_config
from quire_services.gateway.published_prompts.prompt_files import PublishError, read_system, read_tools
from tests.support.store import Store

FUZZ = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
NAMES = [
    "serve",
    "kvstore",
    "engine",
    "gateway",
    "tenants",
    "published",
    "name",
    "keys",
    "groups",
    "file",
    "domain",
    "id",
    "tools",
    "blocks",
    "port",
    "model",
    "run_dir",
    "state_dir",
    "pin_budget",
    "limit",
    "guarantee",
    "weight",
    "joined",
    "members",
    "generations",
    "tokens",
    "version",
    "model_dir",
    "max_model_len",
]
VALUES: Any = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.sampled_from(NAMES),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES) | st.text(), inner, max_size=4),
    max_leaves=12,
)
SCALARS = st.booleans() | st.integers() | st.floats() | st.text(max_size=12)
CELLS = SCALARS | st.lists(SCALARS, max_size=3)
ROWS = st.lists(st.tuples(st.sampled_from(NAMES), CELLS), max_size=6)
TABLES = st.lists(
    st.tuples(st.sampled_from(["[serve]", "[kvstore]", "[gateway]", "[[tenants]]", "[[published]]", ""]), ROWS),
    max_size=4,
)


def written(folder: Path, name: str, content: bytes) -> Path:
    """A file for its owner only."""
    file = folder / name
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    file.chmod(0o600)
    return file


def toml(tables: list[tuple[str, list[tuple[str, Any]]]]) -> bytes:
    """Tables as TOML, near enough: JSON spells most values alike."""
    lines = [line for title, rows in tables for line in (title, *(f"{k} = {json.dumps(v)}" for k, v in rows))]
    return "\n".join(lines).encode(errors="replace")


def one_line(error: Exception, *named: str) -> None:
    """The message is one line, names what it should, and is short enough to read."""
    message = str(error)
    assert message
    assert "\n" not in message
    assert all(name in message for name in named), message


@FUZZ
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
@example(b"1" * 5_000)
@example(b'[{"a": NaN}]')
@example(b"\xef\xbb\xbf[]")
def test_tools_and_system_messages(tmp_path: Path, content: bytes) -> None:
    """Tools are a list of objects, a system message is text; anything else is told of with the file's path."""
    file = written(tmp_path, "prompt", content)
    try:
        assert all(isinstance(tool, dict) for tool in read_tools(file))
    except PublishError as error:
        one_line(error, str(file))
    try:
        assert read_system(file).encode() == content
    except PublishError as error:
        one_line(error, str(file))


@pytest.mark.parametrize("name", ["", "gone", "nul\0", "x" * 300])
def test_paths_that_are_none(tmp_path: Path, name: str) -> None:
    """A directory, nothing, an impossible name."""
    for reader in (read_tools, read_system):
        with pytest.raises(PublishError) as caught:
            reader(tmp_path / name)
        one_line(caught.value)


def test_a_file_without_end(tmp_path: Path) -> None:
    """No more is read than a prompt may have."""
    with pytest.raises(PublishError, match="more than"):
        read_system(Path("/dev/zero"))


@FUZZ
@given(st.binary(max_size=200) | TABLES.map(toml))
@example(b"a = " + b"[" * 5_000)
@example(b"[kvstore]\nblocks = " + b"9" * 5_000)
@example(b"[kvstore]\npin_budget = nan")
@example(b"[kvstore]\nblocks = 1979-05-27")
@example(b'[[published]]\nfile = "a\\u0000b"')
@example(b"[[tenants]]\nname = 'a'\nkeys = [1]")
@example(b"tenants = 5")
def test_configurations(tmp_path: Path, content: bytes) -> None:
    """A configuration is read or refused by name; the loader raises nothing else."""
    file = written(tmp_path, "quire.toml", content)
    try:
        config = load_config({"config": str(file)}, {})
    except ConfigError as error:
        one_line(error)
    else:
        assert 0 <= config.kvstore.pin_budget <= 1


@FUZZ
@given(st.binary(max_size=200) | VALUES.map(lambda value: json.dumps(value).encode()))
@example(b"[" * 100_000)
def test_prepared_files(tmp_path: Path, content: bytes) -> None:
    """What ``quire prefix`` reads of a running stack."""
    file = written(tmp_path, "prepared.json", content)
    try:
        served_model(file)
    except PublishError as error:
        one_line(error, str(file))


@FUZZ
@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=5), st.booleans())
@example({"joined": [], "members": [], "generations": {"g": 10**400}}, True)
@example({"tenants": {"a": {"limit": 10**30}}}, True)
@example({"domain": "public", "tokens": "AQAAAA"}, True)
def test_state_documents(tmp_path: Path, document: dict[str, Any], versioned: bool) -> None:
    """Groups, quotas and publications come back or stop the start, naming the document."""
    content = json.dumps(document | ({"version": 1} if versioned else {})).encode()
    for name in ("groups", "quotas", "publications/p"):
        written(tmp_path, f"{name}.json", content)
    keep = StateDir(tmp_path)
    for name, restore in (
        ("groups", lambda: Declarations(keep).groups([])),
        ("quotas", lambda: quota.restore(keep, Store(16, 4).state)),
        ("publications/p", lambda: Declarations(keep).restore_publications(PublicationList())),
    ):
        try:
            restore()
        except StateError as error:
            one_line(error, f"{name}.json")
