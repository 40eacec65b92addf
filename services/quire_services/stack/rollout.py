"""``quire rollout``: every engine replaced by a new process, one at a time, while they serve.

An engine is asked to end (SIGTERM): it drains, what it carries goes on in the others, its supervisor starts the next
one at once, and that one is waited for until the kvstore and the gateway know it. Then comes the next. This command
finds the processes in the run directory's table and asks nobody else; stopped in the middle, it leaves a whole stack. A
new engine that does not come up ends the rollout with what it said, before another one is touched.

Where there is only one engine, a spare one is started first, by this command and for its time: what the engine carries
goes there and comes back. It needs the memory of a second engine; ``--in-place`` does without.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TypeVar

from quire_services.config.input_files import one_line
from quire_services.config.process_table import ProcessEntry, ProcessTable, read_process_table
from quire_services.process import flags, reason
from quire_services.process.standard_streams import print_line

from .child import Child
from .foreign_process import ForeignProcess
from .readiness import Readiness

POLL_S = 0.1
_T = TypeVar("_T")
SPARE = "spare"


class RolloutError(Exception):
    """The rollout cannot go on; the message says why and what is left."""


@dataclass(frozen=True, slots=True)
class Replacement:
    """One engine that was replaced: its old and its new process, and the seconds until the one had ended and the other
    was ready."""

    engine: str
    old_pid: int
    new_pid: int
    ended_s: float
    ready_s: float


def main(argv: list[str]) -> int:
    """Entry of ``quire rollout``; returns the exit code."""
    parser = flags.Parser(prog="quire rollout", description=(__doc__ or "").partition("\n")[0])
    flags.add_run_dir(parser)
    parser.add_argument("--json", action="store_true", help="what was replaced, as one JSON object, and no progress")
    parser.add_argument(
        "--wait-s", type=float, default=600.0, metavar="X", help="seconds that an engine may take (default: 600)"
    )
    parser.add_argument(
        "--in-place", action="store_true", help="replace a single engine without a spare one: requests wait meanwhile"
    )
    arguments = parser.parse_args(argv)
    run_dir = flags.read_config(parser, arguments).run_dir
    rollout = Rollout(run_dir, arguments.wait_s, quiet=arguments.json)
    error = ""
    try:
        with _alone(run_dir):
            rollout.run(in_place=arguments.in_place)
    except RolloutError as failure:
        error = str(failure)
    except KeyboardInterrupt:
        error = "interrupted: what was asked to end is started again all the same, the others are left as they are"
    if arguments.json:
        done = [asdict(replacement) for replacement in rollout.done]
        print_line(json.dumps({"replaced": done, "error": error or None}, indent=2), sys.stdout)
    if error:
        print_line(f"quire rollout: {one_line(error)}", sys.stderr)
    return 1 if error else 0


@contextmanager
def _alone(run_dir: Path) -> Iterator[None]:
    """Two rollouts at once would take two engines away. Raises RolloutError."""
    try:
        fd = os.open(run_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise RolloutError(f"no stack runs in {run_dir}: {error.strerror}") from None
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise RolloutError(f"another rollout is under way in {run_dir}") from None
    finally:
        os.close(fd)


class Rollout:
    """One rollout of the stack in a run directory.

    Attributes:
        done: what has been replaced.
    """

    def __init__(self, run_dir: Path, wait_s: float, *, quiet: bool) -> None:
        self.done: list[Replacement] = []
        self._run_dir = run_dir
        self._wait_s = wait_s
        self._quiet = quiet

    def run(self, *, in_place: bool) -> None:
        """Replace all engines. Raises RolloutError."""
        table = self._table()
        engines = sorted((name for name in table.processes if name.startswith("engine-")), key=_number)
        gateway = table.processes.get("gateway", ProcessEntry())
        self._readiness = Readiness(
            self._run_dir, gateway.option("host"), int(gateway.option("port") or 0), gateway.option("instance")
        )
        for name in engines:
            if not self._ready(name, table.processes[name], len(engines)):
                raise RolloutError(f"{name} is not ready: nothing was replaced")
        began = time.monotonic()
        self._say(f"replacing {len(engines)} engine(s) of {self._run_dir}")
        if len(engines) == 1 and not in_place:
            with self._spare(table.processes[engines[0]]):
                self._replace(engines[0], 2)
        else:
            for name in engines:
                self._replace(name, len(engines))
        self._say(f"replaced {len(engines)} engine(s) ({time.monotonic() - began:.1f} s)")

    def _say(self, text: str) -> None:
        if not self._quiet:
            print_line(text, sys.stdout)

    def _replace(self, name: str, engines: int) -> None:
        """Replace one engine of so many."""
        old, began = self._table().processes[name], time.monotonic()
        self._say(f"{name} (pid {old.pid}): draining ...")
        self._end(name, old)
        ended_s = time.monotonic() - began
        self._say(f"{name}: ended ({ended_s:.1f} s), waiting for the next ...")
        new = self._until(lambda: self._successor(name, old, engines), f"the new {name} is not ready")
        ready_s = time.monotonic() - began
        self._say(f"{name} (pid {new.pid}): ready ({ready_s:.1f} s)")
        self.done.append(Replacement(name, old.pid, new.pid, round(ended_s, 3), round(ready_s, 3)))

    def _end(self, name: str, entry: ProcessEntry) -> None:
        try:
            process = ForeignProcess(entry)
        except OSError:
            return  # it has ended meanwhile
        process.send_signal(signal.SIGTERM)
        self._until(lambda: process.poll() is not None, f"{name} (pid {entry.pid}) was asked to end and does not")
        os.close(process.pidfd)

    def _successor(self, name: str, old: ProcessEntry, engines: int) -> ProcessEntry | None:
        """The process that has come after the old one, once it is ready. Raises RolloutError if it has ended."""
        entry = self._table().processes[name]
        starts = entry.starts - old.starts
        if starts > 1 or (starts == 1 and not entry.pid):
            raise RolloutError(
                f"the new {name} {entry.last_end}. The supervisor goes on trying; the engines after it were not touched"
            )
        return entry if starts == 1 and self._ready(name, entry, engines) else None

    def _ready(self, name: str, entry: ProcessEntry, engines: int) -> bool:
        """Whether the kvstore has the engine's session, and the gateway as many engines as there are."""
        if name not in self._readiness.among({name: entry}):
            return False
        return bool(self._readiness.health().get("engines", {}).get("ready", 0) >= engines)

    def _table(self) -> ProcessTable:
        """The process table of a stack with a supervisor. Raises RolloutError."""
        table = read_process_table(self._run_dir)
        if not table.processes:
            raise RolloutError(f"no stack of `quire serve` runs in {self._run_dir}")
        if not table.supervisor.runs():
            raise RolloutError("no supervisor watches this stack and would start engines: `quire serve` takes it over")
        return table

    def _until(self, found: Callable[[], _T | None], otherwise: str) -> _T:
        """The first true value of ``found``. Raises RolloutError after ``wait_s``."""
        deadline = time.monotonic() + self._wait_s
        while not (value := found()):
            if time.monotonic() > deadline:
                raise RolloutError(f"{otherwise} after {self._wait_s:g} s; the engines after it were not touched")
            time.sleep(POLL_S)
        return value

    # --- a spare engine ----------------------------------------------------------------------------------------

    @contextmanager
    def _spare(self, engine: ProcessEntry) -> Iterator[None]:
        """One more engine, started as the given one was; it dies with this process. Raises RolloutError."""
        self._say("starting a spare engine, to carry on meanwhile ...")
        argv = [f"--name={SPARE}" if word.startswith("--name=") else word for word in engine.argv]
        spare = Child(SPARE, argv, environment=_environment(engine.pid))
        spare.start()
        began = time.monotonic()
        try:
            self._until(lambda: self._spare_ready(spare), "the spare engine is not ready")
            self._say(f"spare engine (pid {spare.pid}): ready ({time.monotonic() - began:.1f} s)")
            yield
            self._say("spare engine: draining ...")
            spare.ask_to_end()
            self._until(lambda: spare.reap() is not None, "the spare engine was asked to end and does not")
        finally:
            spare.signal(signal.SIGKILL)
            if spare.process:
                spare.process.wait()
                spare.reap()

    def _spare_ready(self, spare: Child) -> bool:
        if spare.reap() is not None:
            raise RolloutError(
                f"the spare engine {spare.last_end}. Nothing was replaced; --in-place does without a spare one, and"
                " requests wait meanwhile, for at most gateway.hold_s"
            )
        return self._ready(SPARE, ProcessEntry(pid=spare.pid), 2)


def _number(name: str) -> int:
    return int("".join(re.findall(r"\d+$", name)) or 0)


def _environment(pid: int) -> dict[str, str]:
    """The environment of a process, as it was started with it."""
    words = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    pairs = (os.fsdecode(word).partition("=") for word in words if b"=" in word)
    return {name: value for name, _, value in pairs if name != reason.REASON_VARIABLE}
