"""``quire serve``: the whole stack of one host under one supervisor.

    prepare (ends)  ->  kvstore  ->  gateway, engine-1 ... engine-N, and a follower of declarations if there are any

All are separate processes that meet in the run directory. A process that dies is started again with a growing delay.
Only while the stack has never been ready does a process end everything: at once if it gave up by itself, for then the
configuration is wrong and trying again would hide that, and the third time if it was killed. The last line is then its
reason. Stopping goes against the direction of use: gateway, engines, kvstore. Progress goes to stdout; the logs of the
processes go to stderr.

Where processes run whose supervisor has died, they are taken over. One that was started with the settings it would be
given now just goes on. If the kvstore's have changed, everything is stopped and started anew; if the gateway's have, it
is drained and started anew; engines whose settings have changed are replaced at the end, one at a time, and those that
are not asked for any more are stopped. Nothing is touched before the model and the configuration have been read, and
a new process that does not come up stops none that runs.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from quire_engine.checkpoint.refusal import ModelRefused
from quire_proto import __version__
from quire_services.config.input_files import one_line
from quire_services.config.process_table import ProcessEntry
from quire_services.config.settings import Config, KvstoreSettings
from quire_services.config.socket_names import LOG_SOCKET
from quire_services.gateway.admin import token as admin_token
from quire_services.process import flags, port_check
from quire_services.process.log_handover import hand_over_stderr
from quire_services.process.preload.environment import preload_environment
from quire_services.process.screen import Screen, bar
from quire_services.process.standard_streams import print_line

from .child import Child
from .declared.children import refusal, with_declarations
from .forks.client import EngineForkServer, can_fork_engines
from .model_fetch import with_model_here
from .processes import ENGINE_ENVIRONMENT, ENGINE_MODULES, Stack, on_one_side
from .readiness import Readiness
from .rundir import RunDir, RunDirError
from .supervisor import STOP_DEADLINE_S, Supervisor
from .words.causes import how_it_ended
from .words.start_screen import StartFacts, start_screen

READINESS_POLL_S = 0.2  # seconds between two looks at processes that are not ready yet
FORKS_POLL_S = 0.02
IDLE_WAIT_S = 3600.0
RETURN_S = 20.0  # in which an engine attaches to a new kvstore; a hung one, which no kvstore knows any more, is killed
MAX_STARTS = 3  # of a process that is killed before the stack was ever ready, or by SIGBUS at any time


def main(argv: list[str]) -> int:
    """Entry of ``quire serve``; returns the exit code."""
    parser = flags.Parser(prog="quire serve", description="Run kvstore, engines and gateway on this host.")
    flags.add(parser, "serve", "kvstore", "engine", "gateway")
    config = flags.read_config(parser, parser.parse_args(argv))
    if config.serve.prefill_engines >= config.serve.engines:
        parser.error(
            f"serve.prefill_engines: {config.serve.prefill_engines} of {config.serve.engines} engines: none decodes"
        )
    if complaint := refusal(config):
        parser.error(complaint)
    screen, named = Screen(sys.stdout), config.serve.model
    try:
        found = with_model_here(config, screen)
    except ModelRefused as error:
        parser.error(f"serve.model: {error}")
    if found is None:
        return 0
    config = found
    if not (Path(config.serve.model) / "config.json").is_file():
        parser.error(f"serve.model: {named!r} is no model directory (it holds no config.json)")
    try:
        run_dir = RunDir(config.run_dir, own_state=not config.kvstore.state_dir)
    except (RunDirError, OSError) as error:
        parser.error(str(error))
    try:
        config = _with_port(config, run_dir.found.get("gateway"))
        config = with_declarations(config, run_dir.path, run_dir.found.get("gateway"))
    except port_check.PortTaken as error:
        run_dir.release() if run_dir.found else run_dir.close()
        parser.error(str(error))
    serve = StackRun(config, run_dir, screen)
    try:
        return serve.run()
    finally:
        for name in [] if serve.left else run_dir.close():
            serve.screen.line(f"left in {run_dir.path}: {name}")
        if serve.failure:
            print_line(f"quire serve: {one_line(serve.failure)}", sys.stderr)


def _with_port(config: Config, running: ProcessEntry | None) -> Config:
    """The configuration with a port for the API: any will do for 0, and those of our running gateway are not taken."""
    values = [running.option(name) for name in ("port", "admin-port")] if running else []
    held = [int(value) for value in values if value.isdecimal()]
    if held and not config.gateway.port:
        config = replace(config, gateway=replace(config.gateway, port=held[0]))
    return replace(config, gateway=replace(config.gateway, port=port_check.check_ports(config.gateway, held)))


def _pool_text(pool: KvstoreSettings) -> str:
    """The pool's size as it is asked for."""
    if pool.kv_gib:
        return f"a pool of {pool.kv_gib:g} GiB"
    if pool.kv_fraction:
        return f"a pool of {pool.kv_fraction:g} of the free memory"
    number = f"{pool.blocks}" if pool.blocks else "a pool of"
    return f"{number} blocks of {pool.block_size} tokens"


class StackRun:
    """One supervisor's time over a stack.

    Attributes:
        failure: why it had to end; empty if it was stopped.
        left: processes that it has found run on without it.
        screen: where a person looks.
    """

    def __init__(self, config: Config, run_dir: RunDir, screen: Screen) -> None:
        self.failure = ""
        self.left = False
        self.screen = screen
        self._config = config
        self._run_dir = run_dir
        preload = preload_environment(on_one_side(config).engine, os.environ)
        self._forks: EngineForkServer | None = None
        if can_fork_engines():
            self._forks = EngineForkServer(ENGINE_MODULES, run_dir.lock, ENGINE_ENVIRONMENT, preload)
        fork = self._forks.fork if self._forks else None
        self._stack = Stack(config, run_dir.path, run_dir.instance, run_dir.table, fork, preload)
        self._readiness = Readiness(run_dir.path, config.gateway.host, config.gateway.port, run_dir.instance)
        self._supervisor = Supervisor(self._ended)
        self._waiting: dict[str, Child] = {}
        self._returning: dict[str, float] = {}  # engines that have to attach again, and until when
        self._surplus: list[Child] = []
        self._was_ready = False
        self._bus_errors: Counter[str] = Counter()

    def run(self) -> int:
        """Start everything, keep it running until a signal comes, stop everything; returns the exit code."""
        config, began = self._config, time.monotonic()
        self.screen.line(
            f"quire {__version__}: {config.serve.engines} engine(s), {_pool_text(config.kvstore)}, "
            f"run directory {self._run_dir.path}"
        )
        with self._supervisor:
            try:
                self._adopt(self._run_dir.found)
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
                    for line in start_screen(config, self._facts()):
                        self.screen.line(line)
                    self._replace_engines()
                    self._keep_running()
            finally:
                if self._forks:
                    self._forks.close()
                if not self.left:
                    self._stop()
        return 1 if self.failure else 0

    def _facts(self) -> StartFacts:
        stack = self._stack
        engines = [(engine.name, engine.facts) for engine in stack.engines]
        return StartFacts(stack.kvstore.facts, stack.gateway.facts, engines)

    def _going(self) -> bool:
        return not self._supervisor.signals and not self.failure

    # --- the start ---------------------------------------------------------------------------------------------

    def _adopt(self, found: Mapping[str, ProcessEntry]) -> None:
        """Watch the processes whose supervisor has died; what is not asked for any more goes later."""
        wanted = {child.name: child for child in self._stack.lasting()}
        for name, entry in found.items():
            child = wanted.get(name) or Child(name, entry.argv, keep=False, table=self._run_dir.table)
            if child.adopt(entry):
                self._supervisor.watch(child)
                self._surplus += [] if name in wanted else [child]
        names = [child.name for child in self._supervisor.children]
        if names:
            self._was_ready = True  # they work for clients: no new process that fails may end them
            self.screen.line(f"taking over, as their supervisor is gone: {', '.join(names)}")

    def _take_logs(self) -> None:
        """From here on the processes taken over write to our stderr; not before it is clear that we stay."""
        if self._was_ready:
            taken = [child for child in self._supervisor.children if child not in self._stack.one_shot]
            with suppress(OSError):  # then their logs go on where they went
                hand_over_stderr(self._run_dir.path / LOG_SOCKET, [child.signal for child in taken])

    def _start(self) -> bool:
        """Start all processes in order; False if the stack is to stop before it was ready."""
        stack = self._stack
        self.screen.line(f"reading {self._config.serve.model} ...")
        if self._forks:
            self._forks.start()
            self._supervisor.watch(self._forks.child)
        for child in stack.one_shot:
            self._supervisor.start(child)
        for child in stack.one_shot:
            while child.code is None and self._going():
                self._supervisor.pump(IDLE_WAIT_S)
            if child.code and self._going():
                self._refuse(child, child.code)
        if not self._going():
            return False
        stack.read_prepared()
        self._take_logs()
        self._end_outdated()
        self._expect(stack.kvstore)
        if not self._all_ready():
            return False
        if self._config.gateway.admin_port and not self._config.gateway.admin_token_file:
            self._run_dir.make_token()
        if loading := [engine for engine in stack.engines if not engine.pid]:
            self.screen.line(f"loading the model in {len(loading)} engine(s) ...")
        self._expect(stack.gateway)
        for follower in stack.followers:
            self._expect(follower)
        while self._forks and not self._forks.settled and self._going():
            self._supervisor.pump(FORKS_POLL_S)
        for engine in stack.engines:
            self._expect(engine)
        return self._all_ready()

    def _refuse(self, child: Child, code: int) -> None:
        """What is asked for cannot be started; what runs goes on as it did."""
        if self._was_ready:
            self.left = True
            self._supervisor.let_go()
            self.screen.line(f"{child.name} {how_it_ended(code)}: nothing was changed, what runs goes on unwatched")
            self.failure = f"{child.name}: {child.reason or how_it_ended(code)}"
        else:
            self._give_up(child, code)

    def _end_outdated(self) -> None:
        """End those that others depend on, if their settings have changed."""
        stack = self._stack
        if stack.kvstore.outdated:
            self.screen.line("the kvstore's settings have changed: stopping everything, to start anew ...")
            for group in self._groups():
                self._end(group)
        elif stack.gateway.outdated:
            self.screen.line("the gateway's settings have changed: draining it ...")
            self._end([stack.gateway])
        self._end([follower for follower in stack.followers if follower.outdated])

    def _replace_engines(self) -> None:
        """Give engines their new settings one at a time, then end those that are too many: answers go on in the
        others."""
        for engine in self._stack.engines:
            if engine.outdated and self._going():
                self.screen.line(f"{engine.name}'s settings have changed: replacing it ...")
                self._end([engine])
                self._expect(engine)
                self._all_ready()
        for engine in self._surplus:
            if engine.pid and self._going():
                self.screen.line(f"{engine.name} is one too many: stopping it ...")
                self._end([engine])
                with suppress(OSError):  # an entry without a process is no harm
                    self._run_dir.table.remove(engine.name)

    def _end(self, group: list[Child]) -> None:
        for child in group:
            self._waiting.pop(child.name, None)
        if killed := self._supervisor.end(group, STOP_DEADLINE_S):
            self.screen.line(f"killed, because they did not stop in time: {', '.join(killed)}")

    def _expect(self, child: Child) -> None:
        if self._going():
            self._waiting[child.name] = self._supervisor.start(child)

    def _all_ready(self) -> bool:
        while self._waiting and self._going():
            self._supervisor.pump(READINESS_POLL_S)
            self._announce()
            self.screen.passing(*self._waits_for())
        return not self._waiting and self._going()

    def _waits_for(self) -> tuple[str, str]:
        """What is waited for, for a terminal and for a log."""
        if not self._waiting:
            return "", ""
        loaded = min(child.loaded for child in self._stack.engines)
        if loaded < 1:
            return f"loading the weights {bar(loaded)}", f"loading the weights: {loaded:.0%}"
        longest = time.monotonic() - min(child.began for child in self._waiting.values())
        text = f"waiting for {', '.join(sorted(self._waiting))} ({longest:.0f} s)"
        return text, text

    # --- afterwards --------------------------------------------------------------------------------------------

    def _announce(self) -> None:
        for name in self._readiness.among(self._waiting):
            child = self._waiting.pop(name)
            child.settled = True
            took = time.monotonic() - child.began
            self.screen.line(f"{name} goes on (pid {child.pid})" if child.inherited else f"{name} ready ({took:.1f} s)")
            if child is self._stack.kvstore:
                until = time.monotonic() + RETURN_S
                back = (engine for engine in self._stack.engines if engine.pid and engine.settled)
                self._returning = {engine.name: until for engine in back}

    def _see_who_returns(self) -> None:
        """Kill those engines that have not come back to a new kvstore in time; they are started again."""
        away = {engine.name: engine for engine in self._stack.engines if engine.name in self._returning}
        for name in self._readiness.among(away):
            del self._returning[name]
        for name, until in tuple(self._returning.items()):
            if time.monotonic() > until:
                del self._returning[name]
                self.screen.line(f"{name} has not come back to the new kvstore in {RETURN_S:.0f} s: killing it")
                away[name].signal(signal.SIGKILL)

    def _keep_running(self) -> None:
        while self._going():
            self._supervisor.pump(READINESS_POLL_S if self._waiting or self._returning else IDLE_WAIT_S)
            if self._waiting:
                self._announce()
            if self._returning:
                self._see_who_returns()
            if self._forks:
                self._forks.reap_strangers([child.pid for child in self._supervisor.children])

    def _ended(self, child: Child, code: int, delay: float) -> None:
        self._bus_errors[child.name] += code == -signal.SIGBUS
        final = not self._was_ready and (code >= 0 or child.starts >= MAX_STARTS)
        if final or self._bus_errors[child.name] >= MAX_STARTS:  # a new process writes to the same full memory
            self._give_up(child, code)
            return
        when = f" in {delay:.1f} s" if delay else ""
        why = f": {child.reason}" if child.reason else ""
        self.screen.line(f"{child.name} {how_it_ended(code)}{why}; starting it again{when}")
        self._waiting[child.name] = child
        self._returning.pop(child.name, None)

    def _give_up(self, child: Child, code: int) -> None:
        times = f", {child.starts} times" if child.starts > 1 else ""
        when = "" if self._was_ready else " before the stack was ready"
        self.screen.line(f"{child.name} {how_it_ended(code)}{times}{when}: stopping")
        self.failure = f"{child.name}: {child.reason or how_it_ended(code) + times}"

    def _groups(self) -> list[list[Child]]:
        """What is stopped, in order."""
        stack = self._stack
        return [[stack.gateway], stack.followers, [*stack.engines, *self._surplus], [stack.kvstore]]

    def _stop(self) -> None:
        self.screen.line("stopping ...")
        began = time.monotonic()
        killed = self._supervisor.stop([self._stack.one_shot, *self._groups()], STOP_DEADLINE_S)
        if killed:
            self.screen.line(f"killed, because they did not stop in time: {', '.join(killed)}")
        self.screen.line(f"stopped ({time.monotonic() - began:.1f} s)")
