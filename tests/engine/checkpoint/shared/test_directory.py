"""The directory of entries: one writes, others wait, and nothing of a killed writer is ever read."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import resource
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
import structlog

from quire_engine.checkpoint.shared import room
from quire_engine.checkpoint.shared.directory import KEPT_UNUSED, EntryDraft, Unshared, WeightsDirectory
from quire_engine.checkpoint.shared.entry import Entry
from tests.support.children import python_child

# Claims NAME, writes one of two pieces, says so, and goes on when it is told to.
WRITER = """
import sys
from pathlib import Path
import structlog
from quire_engine.checkpoint.shared.directory import WeightsDirectory

structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))

def pieces():
    yield memoryview(b"a" * 5000)
    print("half", flush=True)
    sys.stdin.readline()
    yield memoryview(b"b" * 5000)

draft = WeightsDirectory(Path(sys.argv[1])).claim(sys.argv[2], 0.0)
draft.write("child", [5000, 5000], pieces())
draft.publish()
draft.drop()
"""
MAPPER = """
import sys
from pathlib import Path
from quire_engine.checkpoint.shared.directory import WeightsDirectory

entry = WeightsDirectory(Path(sys.argv[1])).find(sys.argv[2])
print(entry.content, flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def store(tmp_path: Path) -> WeightsDirectory:
    return WeightsDirectory(tmp_path / "weights")


def publish(store: WeightsDirectory, name: str, content: str = "mine", size: int = 100) -> Entry:
    """An entry that this process has written."""
    draft = store.claim(name, 0.0)
    assert isinstance(draft, EntryDraft)
    entry = draft.write(content, [size], [memoryview(bytes(size))])
    draft.publish()
    draft.drop()
    return entry


def go_on(child: subprocess.Popen[str]) -> None:
    assert child.stdin is not None
    child.stdin.write("go on\n")
    child.stdin.flush()


def names(store: WeightsDirectory) -> set[str]:
    return {file.name for file in store.path.iterdir()}


def test_what_is_published_is_found(store: WeightsDirectory) -> None:
    """By whoever asks, open to its owner alone; before there is nothing, and a draft that is dropped leaves nothing."""
    assert store.find("k") is None
    draft = store.claim("k", 0.0)
    assert isinstance(draft, EntryDraft)
    draft.write("half", [], [])
    assert store.find("k") is None
    draft.drop()
    assert names(store) == set()
    publish(store, "k")
    found, claimed = store.find("k"), store.claim("k", 0.0)
    assert isinstance(found, Entry)
    assert isinstance(claimed, Entry)
    assert found.content == claimed.content == "mine"
    assert names(store) == {"k.weights"}
    assert store.file("k").stat().st_mode & 0o777 == 0o600
    assert store.path.stat().st_mode & 0o777 == 0o700


def test_others_wait_for_the_writer(store: WeightsDirectory) -> None:
    """Who asks while another process writes has that one's entry, and never two write."""
    with python_child(WRITER, str(store.path), "k", says="half") as writer:
        began = time.monotonic()
        with pytest.raises(Unshared, match=r"has been writing .*k\.draft for 0.2 s"):
            store.claim("k", 0.2)
        assert time.monotonic() - began >= 0.2
        go_on(writer)
        found = store.claim("k", 20.0)
        assert isinstance(found, Entry)
        assert found.content == "child"
        assert writer.wait(20) == 0
    assert names(store) == {"k.weights"}


def test_nothing_of_a_killed_writer_is_read(store: WeightsDirectory) -> None:
    """kill -9 between two pieces: there is no entry, and the next one writes it at once, anew."""
    with python_child(WRITER, str(store.path), "k", says="half") as writer:
        writer.kill()
        writer.wait()
    assert names(store) == {"k.draft"}
    assert store.find("k") is None
    assert publish(store, "k").content == "mine"
    found = store.find("k")
    assert found is not None
    assert found.content == "mine"
    assert names(store) == {"k.weights"}


def test_a_stopped_writer_holds_up_none_for_ever(store: WeightsDirectory) -> None:
    """After their deadline others do without; once it goes on, its entry is whole."""
    with python_child(WRITER, str(store.path), "k", says="half") as writer:
        writer.send_signal(signal.SIGSTOP)
        with pytest.raises(Unshared):
            store.claim("k", 0.1)
        go_on(writer)
        assert store.find("k") is None
        writer.send_signal(signal.SIGCONT)
        assert writer.wait(20) == 0
    assert store.find("k") is not None


def test_an_entry_is_found_while_others_map_it(store: WeightsDirectory) -> None:
    """By any number of processes."""
    publish(store, "k")
    with (
        python_child(MAPPER, str(store.path), "k", says="mine"),
        python_child(MAPPER, str(store.path), "k", says="mine"),
    ):
        assert store.find("k") is not None


def test_old_entries_are_removed_and_none_that_is_mapped(store: WeightsDirectory) -> None:
    """Those used last stay, a bounded number; what another process maps stays whatever its age."""
    publish(store, "mapped")
    with python_child(MAPPER, str(store.path), "mapped", says="mine"):
        os.utime(store.file("mapped"), (1, 1))
        for age, name in enumerate("abcdef"):
            publish(store, name)
            os.utime(store.file(name), (1000 + age, 1000 + age))
        (store.path / "left.draft").write_bytes(b"of one that was killed")
        publish(store, "new")
        kept = {f"{name}.weights" for name in "abcdef"[-KEPT_UNUSED:]}
        assert names(store) == {"mapped.weights", "new.weights"} | kept
    publish(store, "newer")
    assert "mapped.weights" not in names(store)


def test_a_draft_that_is_being_written_stays(store: WeightsDirectory) -> None:
    """Whatever another one writes beside it."""
    with python_child(WRITER, str(store.path), "k", says="half"):
        publish(store, "other")
        assert names(store) == {"k.draft", "other.weights"}


def space(monkeypatch: pytest.MonkeyPatch, store: WeightsDirectory, total: int) -> None:
    """Have the file system be of ``total`` bytes, of which entries take theirs."""
    monkeypatch.setattr(room, "SPARE", 0)

    def statvfs(_path: object) -> SimpleNamespace:
        used = sum(file.stat().st_size for file in store.path.iterdir())
        return SimpleNamespace(f_bavail=total - used, f_frsize=1, f_blocks=total)

    monkeypatch.setattr(os, "statvfs", statvfs)


def test_what_is_not_mapped_makes_room(store: WeightsDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, and no more than it takes."""
    for age, name in enumerate("ab"):
        publish(store, name, size=10_000)
        os.utime(store.file(name), (1000 + age, 1000 + age))
    space(monkeypatch, store, 40_000)
    publish(store, "c", size=10_000)
    assert names(store) == {"b.weights", "c.weights"}


def test_without_room_nothing_is_written(store: WeightsDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is mapped stays, and the reason says how much there is."""
    mapped = publish(store, "a", size=10_000)
    space(monkeypatch, store, 20_000)
    with pytest.raises(Unshared, match="no room for 50,000 bytes"):
        WeightsDirectory(store.path, 50_000)
    WeightsDirectory(store.path, 5_000)
    draft = store.claim("b", 0.0)
    assert isinstance(draft, EntryDraft)
    with pytest.raises(Unshared, match="no room for"):
        draft.write("b", [10_000], [memoryview(bytes(10_000))])
    draft.drop()
    assert names(store) == {"a.weights"}
    assert mapped.content == "mine"


def test_a_damaged_entry_is_written_anew(store: WeightsDirectory) -> None:
    """It is not read, and does not stand in the way."""
    publish(store, "k")
    with store.file("k").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    assert store.find("k") is None
    assert publish(store, "k", "again").content == "again"
    found = store.find("k")
    assert found is not None
    assert found.content == "again"


def test_an_entry_of_another_name_is_written_anew(store: WeightsDirectory) -> None:
    """Somebody copied it there: whole, and another model's."""
    publish(store, "k")
    shutil.copy(store.file("k"), store.file("other"))
    assert store.find("other") is None
    assert publish(store, "other", "its own").content == "its own"
    found = store.find("other")
    assert found is not None
    assert found.content == "its own"


def test_who_waits_does_not_look_at_a_damaged_entry_again_and_again(store: WeightsDirectory) -> None:
    """While another writes it anew, it is said once that it is damaged."""
    publish(store, "k")
    os.truncate(store.file("k"), 50)
    with python_child(WRITER, str(store.path), "k", says="half"), structlog.testing.capture_logs() as logs:
        with pytest.raises(Unshared):
            store.claim("k", 0.2)
        assert [line["event"] for line in logs] == ["shared_weights_damaged"]


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses this process larger files."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_what_the_kernel_refuses_leaves_nothing(store: WeightsDirectory) -> None:
    """A bound of a quota's kind, found before any piece is given; what was there stays."""
    publish(store, "a")
    draft, pieces = store.claim("b", 0.0), iter([memoryview(bytes(1 << 20))])
    assert isinstance(draft, EntryDraft)
    with files_of_at_most(1 << 16), pytest.raises(OSError, match="File too large") as refused:
        draft.write("b", [1 << 20], pieces)
    assert refused.value.errno == errno.EFBIG
    assert len(list(pieces)) == 1
    draft.drop()
    assert names(store) == {"a.weights"}


def test_a_file_system_without_locks_is_an_obstacle(store: WeightsDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody could tell there who writes and what is in use."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(Unshared, match="No locks available"):
        store.claim("k", 0.0)


def test_what_a_killed_writer_has_left_makes_room(store: WeightsDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of whatever entry; the room that a living one has taken is its own."""
    (store.path / "left.draft").write_bytes(bytes(15_000))
    space(monkeypatch, store, 20_000)
    publish(WeightsDirectory(store.path, 12_000), "k", size=12_000)
    assert names(store) == {"k.weights"}
    with python_child(WRITER, str(store.path), "other", says="half"):
        space(monkeypatch, store, 40_000)
        with pytest.raises(Unshared, match="no room for 38,000 bytes"):
            WeightsDirectory(store.path, 38_000)


def test_each_user_has_a_directory_of_its_own(store: WeightsDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    """In another user's nothing is read and nothing written, whatever its mode."""
    publish(store, "k")
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    with pytest.raises(Unshared, match="belongs to another user"):
        WeightsDirectory(store.path)
    assert store.find("k") is None
    assert names(store) == {"k.weights"}


def test_a_directory_that_may_not_be_entered_is_an_obstacle(store: WeightsDirectory) -> None:
    """As another user's: there is nothing to be found, and a sentence says why."""
    publish(store, "k")
    store.path.chmod(0)
    user = os.geteuid()
    if user == 0:  # who may enter everything
        os.seteuid(65534)
    try:
        assert not room.is_begun(store.path, "k")
        with pytest.raises(Unshared, match=re.escape(str(store.path))):
            WeightsDirectory(store.path)
    finally:
        os.seteuid(user)
        store.path.chmod(0o700)
    assert room.is_begun(store.path, "k")


def test_what_others_could_have_written_is_not_read(store: WeightsDirectory, tmp_path: Path) -> None:
    """A file that is open to them, a link, and a directory in which they may write."""
    publish(store, "k")
    store.file("link").symlink_to(store.file("k"))
    assert store.find("link") is None
    store.file("k").chmod(0o644)
    assert store.find("k") is None
    store.file("k").chmod(0o600)
    assert store.find("k") is not None
    store.path.chmod(0o777)
    with pytest.raises(Unshared, match="others may write there"):
        WeightsDirectory(store.path)
    (tmp_path / "file").write_text("")
    with pytest.raises(Unshared, match="file"):
        WeightsDirectory(tmp_path / "file")
