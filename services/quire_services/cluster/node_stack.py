"""A node's stack: ``quire serve`` on one node, watched by an actor there.

    starting -> serving <-> starting (a process of it is down)      serve ends, and is started again
             ... once what is declared is in force there, prompts computed, for up to JOIN_S
    serving  -> draining -> stopped                                 asked to
    starting -> failed                                              serve ended before the stack was ever ready

The supervisor of a stack is ``quire serve`` itself. What the actor adds is that it is started where Ray says, that one
that was killed is started again and takes its stack over, and that the stack ends with its actor. What the processes
log is printed, and so goes where Ray keeps the logs of actors. No method waits.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from quire_proto import __version__
from quire_services.config.declared_names import JOINED_FILE
from quire_services.config.process_table import ProcessEntry, read_process_table
from quire_services.process.port_check import ADMIN_HOST, free_local_port, netloc
from quire_services.process.subcommand import command_line
from quire_services.stack.declared.children import FOLLOWER
from quire_services.stack.readiness import Readiness

from .node_home import NodeHome, sweep_homes
from .nodes import DRAINING, SERVING, STARTING
from .stack_order import CONFIG_FILE, StackOrder

STACK_FAILED, STACK_STOPPED = "failed", "stopped"
STACK_ENDED = (STACK_FAILED, STACK_STOPPED)
SERVE_AGAIN_S = 0.5
JOIN_S = 30.0  # a prompt that cannot be computed there keeps no node from its work
_COMPLAINT = "quire serve: "


@dataclass(frozen=True, slots=True)
class StackReport:
    """How a node's stack is. ``reason``: of a failure, one line."""

    state: str
    url: str = ""
    admin_url: str = ""
    reason: str = ""


class NodeStack:
    """The stack of this node; started by ``start``.

    Args:
        name: the node's.
        order: what to run.
        wanted: how many nodes the cluster is to have, kept here for a controller that starts anew.
        address: of this machine, as other nodes reach it.
    """

    def __init__(self, name: str, order: StackOrder, wanted: int, address: str) -> None:
        if order.version != __version__:
            raise ValueError(f"Quire {__version__} is installed on this node, and {order.version} where `up` was said")
        self._name, self._order, self._wanted = name, order, wanted
        self._host = order.host or address
        sweep_homes(order.cluster)
        self._home = NodeHome(order.cluster, order.files)
        self._ending = threading.Event()
        self._process: subprocess.Popen[str] | None = None
        self._state, self._reason, self._was_ready, self._last = STARTING, "", False, ""
        self._joined, self._joins_until = not order.declarations, 0.0
        # The kernel binds a child's fate to the thread that started it: this one lives as long as the process.
        self._thread = threading.Thread(target=self._watch, name="serve", daemon=True)
        self._thread.start()

    def remember(self, wanted: int) -> None:
        """Keep how many nodes there are to be."""
        self._wanted = wanted

    def memory(self) -> tuple[StackOrder, int]:
        """What a controller that starts anew must know."""
        return self._order, self._wanted

    def report(self) -> StackReport:
        """How it is now."""
        if self._state in STACK_ENDED:
            return StackReport(self._state, reason=self._reason)
        running = read_process_table(self._home.run_dir).running()
        gateway = running.get("gateway")
        url = admin_url = ""
        healthy = False
        if gateway:
            port = int(gateway.option("port"))
            healthy = bool(Readiness(self._home.run_dir, self._host, port, gateway.option("instance")).health())
            url, admin_url = f"http://{netloc(self._host, port)}", f"http://{ADMIN_HOST}:{gateway.option('admin-port')}"
        self._was_ready |= healthy
        serves = healthy and self._has_joined(running.get(FOLLOWER))
        state = DRAINING if self._ending.is_set() else SERVING if serves else STARTING
        return StackReport(state, url, admin_url)

    def _has_joined(self, follower: ProcessEntry | None) -> bool:
        """Whether what is declared is in force here, or was ever: given work before that, a new node would compute a
        published prompt for each tenant."""
        self._joins_until = self._joins_until or time.monotonic() + JOIN_S
        in_force = follower is not None and (Path(follower.option("state")) / JOINED_FILE).exists()
        self._joined |= in_force or time.monotonic() > self._joins_until
        return self._joined

    def drain(self) -> None:
        """Stop the stack in order: gateway, engines, kvstore. ``report`` says when that is done."""
        self._ending.set()
        if self._process:
            self._process.terminate()

    def _watch(self) -> None:
        config = [f"--config={self._home.path / CONFIG_FILE}"] if CONFIG_FILE in self._order.files else []
        where = [f"--run-dir={self._home.run_dir}", f"--host={self._host}", f"--admin-port={free_local_port()}"]
        command = command_line("serve", *self._order.flags, *config, *where, *self._declarations())
        while not self._ending.is_set():
            last = self._run(command)
            if not self._was_ready and not self._ending.is_set():
                self._state, self._reason = STACK_FAILED, last
                break
            self._ending.wait(SERVE_AGAIN_S)
        self._home.remove()
        if self._state != STACK_FAILED:
            self._state = STACK_STOPPED

    def _declarations(self) -> list[str]:
        """Flags of a node that follows declarations."""
        address = self._order.declarations
        if not address:
            return []
        if address.startswith("@"):
            address = f"@{self._home.path / address[1:]}"
        return [f"--declarations={address}", f"--node-name={self._order.cluster}-{self._name}"]

    def _run(self, command: list[str]) -> str:
        """Run it to its end; the last line that it printed itself."""
        tied = [sys.executable, "-P", "-m", "quire_services.cluster.tied_process", str(os.getpid()), *command]
        self._last = ""
        process = subprocess.Popen(
            tied,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
        )
        self._process = process
        if self._ending.is_set():  # asked to before there was one
            process.terminate()
        # Not read to its end here: what outlives a killed supervisor holds the pipe open.
        reader = threading.Thread(target=self._print, args=(process.stdout,), daemon=True)
        reader.start()
        code = process.wait()
        reader.join(SERVE_AGAIN_S)
        return self._last or f"quire serve ended with {code}"

    def _print(self, lines: IO[str]) -> None:
        with lines:
            for line in lines:
                sys.stdout.write(f"[{self._name}] {line}")
                sys.stdout.flush()
                if line.startswith(_COMPLAINT):
                    self._last = line.removeprefix(_COMPLAINT).strip()
