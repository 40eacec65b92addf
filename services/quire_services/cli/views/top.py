"""``quire top``: the pool of a running stack as a live picture, with its tenants, engines, sequences and publications.

It asks the kvstore itself, a few times a second at most, and with ``--admin-port`` the gateway for what engines do. It
goes on when the kvstore ends, says so, and shows the next one. q or Ctrl-C end it, and leave the terminal as it was.
``--once`` prints one page and ``--json`` objects, for scripts.
"""

from __future__ import annotations

import json
import signal
import sys
import time
from argparse import ArgumentTypeError, Namespace
from pathlib import Path
from types import FrameType
from typing import Any

from rich.console import Console, Group
from rich.live import Live

from quire_kv import QuireError
from quire_services.cli.admin_call import AdminCallError, admin_answer
from quire_services.config.input_files import one_line
from quire_services.config.settings import Config
from quire_services.process import flags

from .key_presses import KeyPresses
from .pool_reader import PoolReader, PoolReading
from .top_page import TopView, top_json, top_page

ASK_TIMEOUT_S = 2.0
KEY_WAIT_S = 0.1  # between two looks at the terminal's size
END_KEYS = set("qQ\x04")  # Ctrl-D, too


def main(argv: list[str]) -> int:
    """Entry of ``quire top``; returns the exit code."""
    parser = flags.Parser(prog="quire top", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--once", action="store_true", help="print one page and end")
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of a page")
    parser.add_argument("--interval", type=_interval, default=1.0, metavar="S", help="seconds between two looks (1)")
    flags.add_run_dir(parser, "admin_port", "admin_token_file")
    arguments = parser.parse_args(argv)
    if not (arguments.once or arguments.json or sys.stdout.isatty()):
        parser.error("stdout is no terminal: --once prints one page, --json objects")
    config = flags.read_config(parser, arguments)
    ended = _EndSignal()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, ended)
    with PoolReader(config.run_dir, ASK_TIMEOUT_S) as reader:
        look = PoolLook(config, reader)
        try:
            if arguments.once or arguments.json:
                return _print(look, arguments, ended)
            return _show(look, arguments.interval, ended)
        except (KeyboardInterrupt, EOFError):  # the latter: the terminal has gone
            return 0


class _EndSignal:
    """A handler that interrupts what is done, and remembers: where Python can raise nothing, as in a destructor, an
    interrupt alone would be lost.

    Attributes:
        over: a signal has come.
    """

    def __init__(self) -> None:
        self.over = False

    def __call__(self, _signum: int, _frame: FrameType | None) -> None:
        self.over = True
        raise KeyboardInterrupt


class PoolLook:
    """What was seen last, and how it was to look."""

    def __init__(self, config: Config, reader: PoolReader) -> None:
        self.run_dir: Path = config.run_dir
        self._config, self._reader = config, reader
        self._reading: PoolReading | None = None
        self._before: PoolReading | None = None
        self._gone_since = 0.0
        self.complaint = ""

    def again(self) -> TopView:
        """Look again. What cannot be read is as it was, and a note says so."""
        try:
            reading = self._reader.read()
            self._before, self._reading = self._reading, reading
            self._gone_since, self.complaint = 0.0, ""
        except (QuireError, OSError) as error:
            self._gone_since = self._gone_since or time.monotonic()
            self.complaint = one_line(f"no kvstore answers in {self.run_dir}: {error}")
        engines, notes = self._engines()
        if self.complaint:
            seconds = time.monotonic() - self._gone_since
            old = ", these are the last numbers" if self._reading else ""
            notes.insert(0, f"no kvstore answers for {seconds:.0f} s now{old} ({self.complaint})")
        return TopView(self._reading, self._before, engines, notes)

    def _engines(self) -> tuple[dict[str, dict[str, Any]], list[str]]:
        """What the gateway says of its engines, if it is to be asked."""
        if not self._config.gateway.admin_port or self.complaint:
            return {}, []
        try:
            rows = admin_answer(self._config, "/admin/engines", timeout_s=ASK_TIMEOUT_S)["data"]
            return {str(row["name"]): row for row in rows}, []
        except AdminCallError as error:
            return {}, [str(error)]


def _print(look: PoolLook, arguments: Namespace, ended: _EndSignal) -> int:
    """Pages or objects for scripts: of two looks, as rates need; 1 if the kvstore does not answer."""
    console = Console()
    look.again()
    while not ended.over:
        time.sleep(0 if look.complaint else arguments.interval)
        view = look.again()
        if look.complaint:
            sys.stderr.write(f"quire top: {look.complaint}\n")
            return 1
        if arguments.json:
            sys.stdout.write(json.dumps(top_json(view)) + "\n")
            sys.stdout.flush()
        else:
            lines = top_page(view, console.width, max(24, console.height))[:-1]  # without the keys
            console.print(*lines, sep="\n", crop=False)
        if arguments.once:
            return 0
    return 0


def _show(look: PoolLook, interval: float, ended: _EndSignal) -> int:
    """Pages on a terminal until a key or a signal ends it."""
    console = Console()
    with KeyPresses(sys.stdin) as keys, Live(console=console, screen=True, auto_refresh=False) as live:
        while not ended.over:
            view, until = look.again(), time.monotonic() + interval
            size = None
            while time.monotonic() < until and not ended.over:
                if console.size != size:  # at once when the terminal's changes
                    size = console.size
                    live.update(Group(*top_page(view, size.width, size.height)), refresh=True)
                if END_KEYS.intersection(keys.within(KEY_WAIT_S)):
                    return 0
    return 0


def _interval(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0.1 <= seconds <= 3600:
        raise ArgumentTypeError(f"{text[:40]!r} is no number of seconds from 0.1 to 3600")
    return seconds
