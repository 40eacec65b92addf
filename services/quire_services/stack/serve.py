"""``quire serve``: the whole stack of one host under one supervisor.

    prepare (ends)  ->  kvstore  ->  gateway, engine-1 ... engine-N

All are separate processes that meet in the run directory. A process that dies is started again with a growing delay.
Only while the stack has never been ready does a process end everything: at once if it gave up by itself, for then the
configuration is wrong and trying again would hide that, and the third time if it was killed. The last line is then its
reason. Stopping goes against the direction of use: gateway, engines, kvstore. Progress goes to stdout; the logs of the
processes go to stderr.
"""

from __future__ import annotations

import signal
import sys
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

from quire_proto import __version__
from quire_services.config.input_files import one_line
from quire_services.config.settings import Config
from quire_services.gateway.admin import token as admin_token
from quire_services.process import flags, port_check
from quire_services.process.screen import Screen, bar
from quire_services.process.standard_streams import print_line

from .causes import how_it_ended
from .child import Child
from .processes import Stack
from .readiness import Readiness
from .rundir import RunDir, RunDirError
from .supervisor import Supervisor

STOP_DEADLINE_S = 10.0  # seconds for each of gateway, engines, kvstore
READINESS_POLL_S = 0.2  # seconds between two looks at processes that are not ready yet
IDLE_WAIT_S = 3600.0
MAX_STARTS = 3  # of a process that is killed before the stack was ever ready, or by SIGBUS at any time


def main(argv: list[str]) -> int:
    """Entry of ``quire serve``; returns the exit code."""
    parser = flags.Parser(prog="quire serve", description="Run kvstore, engines and gateway on this host.")
    flags.add(parser, "serve", "kvstore", "engine", "gateway")
    config = flags.read_config(parser, parser.parse_args(argv))
    try:
        if not (Path(config.serve.model) / "config.json").is_file():
            parser.error(f"serve.model: {config.serve.model!r} is no model directory (it holds no config.json)")
        config = replace(config, gateway=replace(config.gateway, port=port_check.check_ports(config.gateway)))
        run_dir = RunDir(config.run_dir, own_state=not config.kvstore.state_dir)
    except (port_check.PortTaken, RunDirError, OSError) as error:
        parser.error(str(error))
    serve = StackRun(config, run_dir)
    try:
        return serve.run()
    finally:
        for name in run_dir.close():
            serve.screen.line(f"left in {run_dir.path}: {name}")
        if serve.failure:
            print_line(f"quire serve: {one_line(serve.failure)}", sys.stderr)


class StackRun:
    """One life of a stack.

    Attributes:
        failure: why it had to end; empty if it was stopped.
        screen: where a person looks.
    """

    def __init__(self, config: Config, run_dir: RunDir) -> None:
        self.failure = ""
        self.screen = Screen(sys.stdout)
        self._config = config
        self._run_dir = run_dir
        self._stack = Stack(config, run_dir.path)
        self._readiness = Readiness(run_dir.path, config.gateway.host, config.gateway.port, self._stack.instance)
        self._supervisor = Supervisor(self._ended)
        self._waiting: dict[str, Child] = {}
        self._was_ready = False
        self._bus_errors: Counter[str] = Counter()

    def run(self) -> int:
        """Start everything, keep it running until a signal comes, stop everything; returns the exit code."""
        config, began = self._config, time.monotonic()
        self.screen.line(
            f"quire {__version__}: {config.serve.engines} engine(s), {config.kvstore.blocks} blocks of "
            f"{config.kvstore.block_size} tokens, run directory {self._run_dir.path}"
        )
        with self._supervisor:
            try:
                if self._start():
                    self._was_ready = True
                    took = time.monotonic() - began
                    self.screen.line(
                        f"ready: http://{port_check.netloc(config.gateway.host, config.gateway.port)}/v1 ({took:.1f} s)"
                    )
                    if config.gateway.admin_port:
                        token = config.gateway.admin_token_file or self._run_dir.path / admin_token.TOKEN_FILE
                        self.screen.line(
                            f"admin API: http://127.0.0.1:{config.gateway.admin_port}/admin (token in {token})"
                        )
                    self._keep_running()
            finally:
                self._stop()
        return 1 if self.failure else 0

    def _going(self) -> bool:
        return not self._supervisor.signals and not self.failure

    def _start(self) -> bool:
        """Start all processes in order; False if the stack is to stop before it was ready."""
        stack = self._stack
        self.screen.line(f"reading {self._config.serve.model} ...")
        self._supervisor.start(stack.prepare)
        while stack.prepare.code is None and self._going():
            self._supervisor.pump(IDLE_WAIT_S)
        if stack.prepare.code:
            self._give_up(stack.prepare, stack.prepare.code)
        if not self._going():
            return False
        self._expect(stack.kvstore)
        if not self._all_ready():
            return False
        if self._config.gateway.admin_port and not self._config.gateway.admin_token_file:
            self._run_dir.make_token()
        self.screen.line(f"loading the model in {len(stack.engines)} engine(s) ...")
        for child in (stack.gateway, *stack.engines):
            self._expect(child)
        return self._all_ready()

    def _expect(self, child: Child) -> None:
        self._waiting[child.name] = self._supervisor.start(child)

    def _all_ready(self) -> bool:
        while self._waiting and self._going():
            self._supervisor.pump(READINESS_POLL_S)
            self._announce()
            self.screen.passing(self._waits_for())
        return not self._waiting

    def _waits_for(self) -> str:
        if not self._waiting:
            return ""
        loaded = min(child.loaded for child in self._stack.engines)
        if loaded < 1:
            return f"loading the weights {bar(loaded)}"
        longest = time.monotonic() - min(child.began for child in self._waiting.values())
        return f"waiting for {', '.join(sorted(self._waiting))} ({longest:.0f} s)"

    def _announce(self) -> None:
        for name in self._readiness.among(self._waiting):
            child = self._waiting.pop(name)
            self.screen.line(f"{name} ready ({time.monotonic() - child.began:.1f} s)")

    def _keep_running(self) -> None:
        while self._going():
            self._supervisor.pump(READINESS_POLL_S if self._waiting else IDLE_WAIT_S)
            if self._waiting:
                self._announce()

    def _ended(self, child: Child, code: int, delay: float) -> None:
        self._bus_errors[child.name] += code == -signal.SIGBUS
        final = not self._was_ready and (code >= 0 or child.starts >= MAX_STARTS)
        if final or self._bus_errors[child.name] >= MAX_STARTS:  # a new process writes to the same full memory
            self._give_up(child, code)
            return
        self.screen.line(f"{child.name} {how_it_ended(code)}; starting it again in {delay:.1f} s")
        self._waiting[child.name] = child

    def _give_up(self, child: Child, code: int) -> None:
        times = f", {child.starts} times" if child.starts > 1 else ""
        when = "" if self._was_ready else " before the stack was ready"
        self.screen.line(f"{child.name} {how_it_ended(code)}{times}{when}: stopping")
        self.failure = f"{child.name}: {child.reason or how_it_ended(code) + times}"

    def _stop(self) -> None:
        self.screen.line("stopping ...")
        stack, began = self._stack, time.monotonic()
        groups = [[stack.prepare, stack.gateway], stack.engines, [stack.kvstore]]
        killed = self._supervisor.stop(groups, STOP_DEADLINE_S)
        if killed:
            self.screen.line(f"killed, because they did not stop in time: {', '.join(killed)}")
        self.screen.line(f"stopped ({time.monotonic() - began:.1f} s)")
