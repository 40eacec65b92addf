"""``quire top``: the kvstore's own numbers, in any size, over a kvstore's end, on a terminal that stays whole."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quire_proto import messages as m
from quire_proto.wire.u32 import pack_u32
from quire_services.cli.views.pool_picture import KINDS, charged_counts, kinds_of, marked_counts, pool_rows
from quire_services.cli.views.pool_reader import PoolReader
from quire_services.cli.views.top_page import TopView, top_page
from tests.support.kvstore import Kvstore
from tests.support.quire_command import Quire, command
from tests.support.raw_client import Client
from tests.support.waits import wait_for

BLOCKS = 100_000
CHAIN = b"".join(bytes([number]) * 32 for number in range(1, 11))
ENTER, LEAVE, CURSOR = "\x1b[?1049h", "\x1b[?1049l", "\x1b[?25h"


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kvstore]:
    """A pool of 100,000 blocks in which two tenants hold some, share some, and left some in the cache."""
    run_dir = tmp_path_factory.mktemp("top") / "run"
    kvstore, client = Kvstore(run_dir, blocks=BLOCKS), Client(run_dir)
    kvstore.start()
    try:
        client.attach()
        for number, tenant, tokens, digests in (
            (1, "acme", 400, b""),
            (8, "borea", 40, CHAIN),
            (9, "borea", 4000, b""),
        ):
            assert client.ask("allocate", m.Allocate(number, tenant, tokens, digests), ordered=True).code == ""
        fills, fork = pack_u32([1, 400, 8, 40]), m.Fork(1, pack_u32([2, 3]), 400)
        step = m.Step(fills=fills, seals=(m.Seal(8, 0, CHAIN),), forks=(fork,))
        assert client.ask("step", step, ordered=True).code == ""
        assert client.ask("free", m.Free(pack_u32([8])), ordered=True).code == ""
        yield kvstore
    finally:
        client.close()
        kvstore.stop()


@pytest.fixture
def quire(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Quire]:
    with command(capsys, monkeypatch) as quire:
        yield quire


def _seen(kvstore: Kvstore) -> TopView:
    with PoolReader(kvstore.run_dir, 30) as reader:
        return TopView(reader.read())


@pytest.mark.process
def test_it_shows_the_kvstores_own_numbers(planted: Kvstore, quire: Quire) -> None:
    """Of 100,000 blocks: states, tenants, sessions, publications, as ``stats`` and ``tenants`` have them."""
    ran = quire("top", "--once", "--json", "--interval=0.1", f"--run-dir={planted.run_dir}")
    told, stats = json.loads(ran.out), planted.stats()
    assert (ran.code, {name: told["blocks"][name] for name in stats.blocks}) == (0, stats.blocks)
    assert told["blocks"]["total"] == BLOCKS
    charged = {row["tenant"]: row["charged"] for row in told["tenants"]}
    assert charged["acme"] == 100
    assert charged["borea"] == 1010
    assert (told["blocks"]["shared"], told["blocks"]["cached"]) == (100, 10)
    assert all(row["charged"] == row["held"] + row["cached"] for row in told["tenants"])
    assert [s["sequences"] for s in told["sessions"]] == [s.sequences for s in stats.sessions] == [4]
    assert [p["id"] for p in told["publications"]] == [p.id for p in stats.publications]
    assert set(told["rates"]) >= {"prompt_tokens", "evictions"}


@pytest.mark.process
def test_its_page_fits_a_terminal_of_any_size(planted: Kvstore) -> None:
    """No line is too long, nor is there one too many; in 80x24 all parts have a place, and the numbers are exact."""
    view = _seen(planted)
    for width, height in ((80, 24), (200, 60), (40, 12), (10, 3), (1, 1)):
        page = [line.plain for line in top_page(view, width, height)]
        assert len(page) <= height
        assert max(len(line) for line in page) <= width
    text = "\n".join(line.plain for line in top_page(view, 80, 24))
    held = planted.stats().blocks["held"]
    for part in (
        f" 100,000 blocks  {BLOCKS - held - 10:,} free",
        f" {held:,} held",
        "4 sequences",
        "acme",
        "borea",
        "p   ",
    ):
        assert part in text
    assert re.search(r"^ raw-\d+ +ready +4 ", text, re.MULTILINE)


def _cells(**kinds: int) -> np.ndarray[Any, np.dtype[np.uint32]]:
    cell = {"free": 0, "held": 0x1_01_01, "shared": 0x1_02_01, "cached": 0x2_00_06, "claimed": 0x1_01_09,
            "published": 0x3_01_15, "quarantined": 0x2_01_03}  # fmt: skip
    return np.concatenate([np.full(count, cell[kind], np.uint32) for kind, count in kinds.items()])


def test_each_kind_of_block_has_its_letter() -> None:
    """One place a block while there is space for all; their numbers are those of the cells."""
    cells = _cells(free=3, held=2, shared=1, cached=2, claimed=1, published=1, quarantined=1)
    rows, each = pool_rows(cells, 6, 2)
    assert each == 1
    assert ["".join(KINDS[kind].letter for kind in row) for row in rows] == ["...##%", "--+*!"]
    assert marked_counts(cells) == {"shared": 1, "claimed": 1, "published": 1}
    assert charged_counts(cells, ("acme", "borea", "(public)")) == {"acme": 4, "borea": 2, "(public)": 1}


def test_a_place_of_many_blocks_shows_what_most_are_and_any_quarantine() -> None:
    """One block in quarantine among thousands is seen."""
    cells = _cells(free=600, held=400, cached=999, quarantined=1)
    rows, each = pool_rows(cells, 2, 1)
    assert (each, "".join(KINDS[kind].letter for kind in rows[0])) == (1000, ".!")
    assert np.bincount(kinds_of(cells), minlength=len(KINDS)).tolist() == [600, 999, 400, 0, 0, 0, 1]


@pytest.mark.process
def test_what_changed_is_all_that_is_asked_for(planted: Kvstore) -> None:
    """A second reading is equal to that of a reader who asks for everything, whatever happened in between."""
    client = Client(planted.run_dir)
    with PoolReader(planted.run_dir, 30) as reader:
        before = reader.read()
        client.attach()
        assert client.ask("allocate", m.Allocate(1, "newcomer", 40), ordered=True).code == ""
        after, fresh = reader.read(), _seen(planted).reading
        assert fresh is not None
        assert (after.cells == fresh.cells).all()
        assert after.accounts == fresh.accounts
        assert np.count_nonzero(after.cells != before.cells) == 10
        assert "newcomer" in after.accounts
    client.close()


@contextmanager
def _on_a_terminal(*arguments: str) -> Iterator[Terminal]:
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environ = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")} | {
        "TERM": "xterm"
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "quire_services.cli", "top", "--interval=0.2", *arguments],
        stdin=theirs, stdout=theirs, stderr=theirs, env=environ, start_new_session=True,
    )  # fmt: skip
    try:
        yield Terminal(ours, theirs, process)
    finally:
        process.kill()
        process.wait()
        os.close(ours)
        os.close(theirs)


class Terminal:
    """A terminal on which a command runs, and all that was written to it."""

    def __init__(self, ours: int, theirs: int, process: subprocess.Popen[bytes]) -> None:
        self._ours, self._theirs, self.process = ours, theirs, process
        self.mode = termios.tcgetattr(theirs)
        self.told = ""
        os.set_blocking(ours, False)

    def says(self, words: str, since: int = 0) -> None:
        """Wait until it has written these words."""
        wait_for(lambda: words in self._read()[since:], f"{words!r} is shown", 60)

    def _read(self) -> str:
        with suppress(BlockingIOError):
            while piece := os.read(self._ours, 65536):
                self.told += piece.decode(errors="replace")
        return self.told

    def press(self, key: str) -> None:
        """Type it."""
        os.write(self._ours, key.encode())

    def resize(self, width: int, height: int) -> None:
        """Make it as large as this."""
        fcntl.ioctl(self._theirs, termios.TIOCSWINSZ, struct.pack("HHHH", height, width, 0, 0))

    def is_whole(self) -> bool:
        """Its mode is as before, the screen of its own has been left, and the cursor is back."""
        self._read()
        same = termios.tcgetattr(self._theirs) == self.mode
        return same and self.told.count(ENTER) == 1 and self.told.endswith(CURSOR + LEAVE)


@pytest.mark.process
def test_it_lives_through_the_end_of_a_kvstore_and_ends_with_a_key(run_dir: Path) -> None:
    """It says that the kvstore is gone beside the last numbers, shows the next one, follows the terminal's size, and q
    leaves the terminal as it was."""
    kvstore = Kvstore(run_dir, blocks=64).start()
    with _on_a_terminal(f"--run-dir={run_dir}") as terminal:
        terminal.says(f"boot {kvstore.stats().boot.hex()[:8]}")
        kvstore.kill()
        terminal.says("these are the last numbers")
        kvstore.start()
        terminal.says(f"boot {kvstore.stats().boot.hex()[:8]}")
        terminal.resize(60, 10)
        terminal.says("." * 60)
        terminal.press("q")
        assert terminal.process.wait(30) == 0
        assert terminal.is_whole()
    kvstore.stop()


@pytest.mark.process
@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_signal_leaves_the_terminal_as_it_was(run_dir: Path, number: int) -> None:
    """Also where there never was a kvstore."""
    with _on_a_terminal(f"--run-dir={run_dir}") as terminal:
        terminal.says("no kvstore answers")
        terminal.process.send_signal(number)
        assert terminal.process.wait(30) == 0
        assert terminal.is_whole()


def test_without_a_kvstore_a_script_gets_one_line(quire: Quire, run_dir: Path) -> None:
    """And exit code 1; a page that is not for a terminal has to be asked for."""
    for form in ("--once", "--json"):
        quire("top", form, f"--run-dir={run_dir}").complains("no kvstore answers in")
    quire("top", f"--run-dir={run_dir}").complains("stdout is no terminal")
    quire("top", "--once", "--interval=0").complains("no number of seconds")
