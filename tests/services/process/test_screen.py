"""What a person sees of a stack: lines that stay, and below them a text that passes, on a terminal only."""

from __future__ import annotations

import io
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from quire_services.config.settings import Config, ServeSettings
from quire_services.process import reason, start_report
from quire_services.process.screen import ERASE_LINE, Screen, bar
from quire_services.stack.child import Child
from quire_services.stack.processes import Stack
from quire_services.stack.supervisor import Supervisor
from tests.support.waits import wait_for


class Terminal(io.StringIO):
    """A stream that says it is one."""

    def isatty(self) -> bool:
        """Yes."""
        return True


def test_a_passing_text_is_erased_by_the_next_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is drawn once while it stays the same, cut to one row, and leaves the cursor in front of it."""
    monkeypatch.setenv("COLUMNS", "20")
    out = Terminal()
    screen = Screen(out)
    for _ in range(3):
        screen.passing("waiting for " + "x" * 100)
    screen.line("ready")
    screen.passing("")
    assert out.getvalue() == f"{ERASE_LINE}waiting for xxxxxxx\r{ERASE_LINE}ready\n"


def test_a_file_holds_lines_only() -> None:
    """No text that passes, no control characters."""
    out = io.StringIO()
    screen = Screen(out)
    screen.passing("waiting")
    screen.line("ready")
    assert out.getvalue() == "ready\n"


def test_a_log_hears_of_a_long_wait_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line when nothing was said for a while, in words without a bar, and not at each look."""
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    out = io.StringIO()
    screen = Screen(out)
    for _ in range(250):  # of 0.1 s
        now[0] += 0.1
        screen.passing(f"loading the weights {bar(0.5)}", "loading the weights: 50%")
    screen.line("ready")
    assert out.getvalue() == "loading the weights: 50%\n" * 2 + "ready\n"


def test_a_bar_fills() -> None:
    """Nothing, a part, all."""
    assert [(bar(share).count("#"), bar(share)[-4:]) for share in (0, 0.5, 1)] == [
        (0, "  0%"),
        (15, " 50%"),
        (30, "100%"),
    ]


def test_a_child_tells_how_far_it_is_and_why_it_ended() -> None:
    """Both through one file; a child that tells nothing is taken to have loaded all there is."""
    code = (
        "import time; from quire_services.process import reason, start_report; "
        "reason.report_reason('first, and long'); start_report.report_load_share(1, 4); time.sleep(60)"
    )
    with Supervisor(lambda *_: None) as watching:
        child = Child("c", [sys.executable, "-c", code])
        assert child.loaded == 1
        watching.start(child)
        wait_for(lambda: child.loaded == 0.25, "a quarter is loaded", meanwhile=partial(watching.pump, 0.05))
        child.keep = False
        child.signal(9)
        wait_for(lambda: child.code is not None, "the child has ended", meanwhile=partial(watching.pump, 0.05))
    assert (child.loaded, child.reason) == (1, "first, and long")


def test_no_supervisor_is_told_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that was started by hand writes into no file."""
    monkeypatch.delenv(reason.REASON_VARIABLE, raising=False)
    assert reason.reason_fd() == -1
    start_report.report_load_share(1, 2)


def test_all_processes_log_in_one_form(tmp_path: Path) -> None:
    """The form that was asked of the stack is the form of each."""
    stack = Stack(Config(ServeSettings(model="m", log_format="json")), tmp_path)
    for child in (stack.kvstore, stack.gateway, *stack.engines):
        assert "--log-format=json" in child.argv
