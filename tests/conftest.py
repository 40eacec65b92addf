"""Settings every test shares."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.support.quire_command import Quire

# Two cores and many processes: oversubscribed BLAS threads cost more than they bring.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# As `make test` sets it: a child that is a module of tests/ or bench/ must be told where that stands.
os.environ["PYTHONSAFEPATH"] = "1"
# Read when Triton is imported, which transformers does too: in a whole run long before the kernel tests.
if os.environ.get("QUIRE_TEST_DEVICE", "cpu") == "cpu":
    os.environ["TRITON_INTERPRET"] = "1"


BEGAN = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """What `make check` gives, which is cut where it takes too long: a part that is named beats nothing at all."""
    parser.addoption("--longer-until", type=float, metavar="MINUTES", help="begin no test marked slow after so many")


@pytest.hookimpl(tryfirst=True)  # before fixtures start what they start
def pytest_runtest_setup(item: pytest.Item) -> None:
    """A longer proof that would begin too late is skipped, and named among what was."""
    limit = item.config.getoption("--longer-until")
    if limit is not None and item.get_closest_marker("slow") and time.monotonic() - BEGAN > limit * 60:
        pytest.skip(f"this machine has not begun it within {limit:g} minutes: run it by itself")


def pytest_configure() -> None:
    """SIGTERM ends a run as Ctrl-C does, so that what tests have started is stopped first: stacks would stay
    otherwise."""
    run = os.getpid()

    def interrupt(number: int, frame: Any) -> None:
        if os.getpid() == run:
            signal.default_int_handler(number, frame)
        signal.signal(number, signal.SIG_DFL)  # a fork of ours
        os.kill(os.getpid(), number)

    signal.signal(signal.SIGTERM, interrupt)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A directory that only we may enter."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
def quire(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Quire]:
    """The ``quire`` command in this process; see ``tests.support.quire_command``."""
    from tests.support.quire_command import command  # only where it is asked for: it imports all services

    with command(capsys, monkeypatch) as run:
        yield run
