"""An entry gives back what was written, or says that it is damaged."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_engine.checkpoint.shared import entry as entry_module
from quire_engine.checkpoint.shared.entry import PAGE, Entry, EntryDamaged, entry_size, write_entry

PIECES = (b"a" * 10, b"", bytes(range(256)) * 100, b"z" * PAGE)
NAME = "k"
CONTENT = {"what": ["anything", 1, None], "é": "\n"}
SIZES = [len(piece) for piece in PIECES]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """An entry."""
    path = tmp_path / "entry"
    with path.open("x+b") as stream:
        write_entry(stream.fileno(), NAME, CONTENT, SIZES, map(memoryview, PIECES))
    return path


def opened(path: Path) -> Entry:
    return Entry(os.open(path, os.O_RDONLY), NAME)


def test_an_entry_gives_back_what_was_written(file: Path) -> None:
    """Its content and all pieces; those of a page and more begin with one, in a file of the size that was foretold."""
    entry = opened(file)
    assert entry.content == CONTENT
    assert [bytes(entry.memory[at : at + size]) for at, size in entry.pieces] == list(PIECES)
    assert [at % PAGE for at, size in entry.pieces if size >= PAGE] == [0, 0]
    assert entry.size == file.stat().st_size == entry_size(NAME, CONTENT, SIZES)


def test_an_entry_cannot_be_written(file: Path) -> None:
    """What is mapped of it."""
    with pytest.raises(TypeError):
        opened(file).memory[0] = 1


def test_an_entry_closes_its_file(file: Path) -> None:
    """And with it gives up its lock, once nothing has it any more."""
    before = set(os.listdir("/proc/self/fd"))
    entry = opened(file)
    del entry
    assert set(os.listdir("/proc/self/fd")) <= before


def test_every_changed_byte_of_a_small_entry_is_noticed(file: Path) -> None:
    """Wherever it is, in header, table, pieces and what is between them."""
    whole = file.read_bytes()
    for at in [*range(128), *range(128, len(whole), 97), len(whole) - 1]:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(EntryDamaged):
            opened(file)
    file.write_bytes(whole)
    assert opened(file).content == CONTENT


def test_an_entry_of_another_name_is_none(file: Path) -> None:
    """However whole it is: its weights are another model's."""
    with pytest.raises(EntryDamaged, match="it is k"):
        Entry(os.open(file, os.O_RDONLY), "other")


@pytest.mark.parametrize("length", [0, 10, 95, 96, 200, -1])
def test_a_cut_entry_is_noticed(file: Path, length: int) -> None:
    """Whatever is left of it; and so is one that was made longer."""
    whole = file.read_bytes()
    file.write_bytes(whole[:length])
    with pytest.raises(EntryDamaged):
        opened(file)
    file.write_bytes(whole + b"x")
    with pytest.raises(EntryDamaged):
        opened(file)


@pytest.mark.parametrize("lost", [0.01, 0.5, 0.99])
def test_lost_stretches_of_a_large_entry_are_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lost: float
) -> None:
    """Of which samples are looked at: zeros in a hundredth of it."""
    monkeypatch.setattr(entry_module, "CHECKED_BYTES", 64)
    path, piece = tmp_path / "entry", os.urandom(1 << 20)
    with path.open("x+b") as stream:
        write_entry(stream.fileno(), NAME, None, [len(piece)], [memoryview(piece)])
    assert opened(path).size > len(piece)
    with path.open("r+b") as stream:
        stream.seek(int(lost * len(piece)))
        stream.write(bytes(len(piece) // 100))
    with pytest.raises(EntryDamaged):
        opened(path)


def test_an_entry_that_is_being_written_is_none(tmp_path: Path) -> None:
    """Until the last piece was written, and whatever was written of it."""
    path = tmp_path / "entry"

    def pieces() -> Iterator[memoryview]:
        for piece in PIECES:
            with pytest.raises(EntryDamaged):
                opened(path)
            yield memoryview(piece)

    with path.open("x+b") as stream:
        write_entry(stream.fileno(), NAME, CONTENT, SIZES, pieces())
    opened(path)


def test_without_room_no_piece_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever gives a piece may give up its memory: the room is taken before."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    asked = iter([memoryview(b"x")])
    with (tmp_path / "entry").open("x+b") as stream, pytest.raises(OSError, match="No space"):
        write_entry(stream.fileno(), NAME, None, [1], asked)
    assert len(list(asked)) == 1
