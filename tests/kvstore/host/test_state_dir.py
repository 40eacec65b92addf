"""The state directory: documents that are whole or absent, and for their owner only."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from quire_kvstore.host.state_dir import StateDir, StateError


def test_a_document_comes_back(tmp_path: Path) -> None:
    """What was written last is what is read, by another object too; nothing else is left in the directory."""
    StateDir(tmp_path).write("tenants", {"a": 1})
    StateDir(tmp_path).write("tenants", {"b": [2]})

    assert StateDir(tmp_path).read("tenants") == {"b": [2]}
    assert [path.name for path in tmp_path.iterdir()] == ["tenants.json"]
    assert StateDir(tmp_path).read("other") is None


def test_documents_of_a_folder(tmp_path: Path) -> None:
    """Documents of a folder are listed and removed by name; a second removal changes nothing."""
    state = StateDir(tmp_path)
    for name in ("publications/b", "publications/a.v2"):
        state.write(name, {})
    (tmp_path / "publications" / ".a.json.99").write_text("a draft that a dead process left")

    assert state.names("publications") == ["publications/a.v2", "publications/b"]
    state.remove("publications/b")
    state.remove("publications/b")
    assert (state.names("publications"), state.names("nothing")) == (["publications/a.v2"], [])


def test_only_the_owner_can_read(tmp_path: Path) -> None:
    """Files are 0600 and folders 0700, and a document that others may read is refused."""
    state = StateDir(tmp_path)
    state.write("publications/a", {})

    file = tmp_path / "publications" / "a.json"
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    file.chmod(0o644)
    with pytest.raises(StateError, match="owner only"):
        state.read("publications/a")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"version": 2}', b"\xff", b"[" * 100_000])
def test_a_document_that_cannot_be_used_is_an_error(tmp_path: Path, content: bytes) -> None:
    """Never a silent default: the error names the file."""
    file = tmp_path / "tenants.json"
    file.write_bytes(content)
    file.chmod(0o600)

    with pytest.raises(StateError, match=r"tenants\.json"):
        StateDir(tmp_path).read("tenants")


def test_a_pipe_is_no_document(tmp_path: Path) -> None:
    """It would keep the start waiting for a writer."""
    os.mkfifo(tmp_path / "tenants.json", 0o600)
    with pytest.raises(StateError, match="not a file"):
        StateDir(tmp_path).read("tenants")


def test_a_failed_write_changes_nothing(tmp_path: Path) -> None:
    """Where the place cannot be written the old document stays and no draft is left."""
    state = StateDir(tmp_path)
    state.write("tenants", {"a": 1})
    (tmp_path / "publications").write_text("a file where a folder should be")

    with pytest.raises(StateError, match="publications"):
        state.write("publications/a", {})
    assert state.read("tenants") == {"a": 1}
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.process
def test_killed_at_any_instant_it_is_whole(tmp_path: Path) -> None:
    """A process that rewrites a document all the time is killed; what is there is one of the documents written."""
    program = (
        "import sys; from pathlib import Path; from quire_kvstore.host.state_dir import StateDir\n"
        "state, n = StateDir(Path(sys.argv[1])), 0\n"
        "while True:\n"
        "    n += 1; state.write('tenants', {'n': n, 'again': [n] * 2000}); print(n, flush=True)\n"
    )
    for _ in range(5):
        command = [sys.executable, "-P", "-c", program, os.fspath(tmp_path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            for _ in range(7):
                said = int(writer.stdout.readline())
            writer.kill()
        content = StateDir(tmp_path).read("tenants")
        assert content is not None
        assert content["n"] >= said
        assert content["again"] == [content["n"]] * 2000
