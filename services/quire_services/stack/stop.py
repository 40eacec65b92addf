"""``quire stop``: end the stack of a run directory, in order, whether a supervisor watches it or not.

With a supervisor it does what Ctrl-C does there. Without one, it takes the processes over and stops them itself:
gateway, follower, engines, kvstore; then it removes what they made in the run directory.
"""

from __future__ import annotations

import signal
import sys
import time
from pathlib import Path

from quire_services.config.process_table import read_process_table
from quire_services.process import flags
from quire_services.process.standard_streams import print_line

from .child import Child
from .declared.children import FOLLOWER
from .foreign_process import ForeignProcess
from .rundir import MARKER_FILE, RunDir, RunDirError
from .supervisor import STOP_DEADLINE_S, Supervisor


def main(argv: list[str]) -> int:
    """Entry of ``quire stop``; returns the exit code."""
    parser = flags.Parser(prog="quire stop", description=(__doc__ or "").partition("\n")[0])
    flags.add_run_dir(parser)
    run_dir = flags.read_config(parser, parser.parse_args(argv)).run_dir
    began = time.monotonic()
    try:
        if not (run_dir / MARKER_FILE).exists():
            raise RunDirError(f"no stack of `quire serve` is in {run_dir}")
        _stop_supervisor(run_dir)
        if (run_dir / MARKER_FILE).exists():
            _stop_processes(RunDir(run_dir, own_state=None))
    except (RunDirError, OSError) as error:
        print_line(f"quire stop: {error}", sys.stderr)
        return 1
    print_line(f"stopped ({time.monotonic() - began:.1f} s)", sys.stdout)
    return 0


def _stop_supervisor(run_dir: Path) -> None:
    """Tell the supervisor to stop everything, if there is one, and wait for its end."""
    try:
        supervisor = ForeignProcess(read_process_table(run_dir).supervisor)
    except OSError:
        return
    print_line(f"stopping, by its supervisor (pid {supervisor.pid}) ...", sys.stdout)
    supervisor.send_signal(signal.SIGTERM)
    supervisor.wait()


def _stop_processes(run_dir: RunDir) -> None:
    """Stop what runs without a supervisor, and clean up behind it."""
    with Supervisor(lambda *_: None) as supervisor:
        groups: dict[str, list[Child]] = {"gateway": [], FOLLOWER: [], "engine": [], "kvstore": []}
        for name, entry in run_dir.found.items():
            child = Child(name, entry.argv, keep=False, table=run_dir.table)
            if child.adopt(entry):
                supervisor.watch(child)
                groups.setdefault(name.partition("-")[0], []).append(child)
        names = ", ".join(child.name for group in groups.values() for child in group)
        print_line(f"stopping {names or 'nothing, as nothing runs'} (no supervisor watches) ...", sys.stdout)
        if killed := supervisor.stop(list(groups.values()), STOP_DEADLINE_S):
            print_line(f"killed, because they did not stop in time: {', '.join(killed)}", sys.stdout)
    for name in run_dir.close():
        print_line(f"left in {run_dir.path}: {name}", sys.stdout)
