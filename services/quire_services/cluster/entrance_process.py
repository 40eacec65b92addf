"""The entrance of a cluster: ``quire entrance`` beside the controller, and the list of nodes that it reads.

It is started when the first node serves, again when it ended, and ends with its controller: the kernel sees to that
(``tied_process``), so ``keep`` is to be called by one thread that lives as long as its process.
"""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress

from quire_services.process.port_check import ANY_ADDRESS, netloc
from quire_services.process.reason import REASON_VARIABLE, new_reason_file, reason_of
from quire_services.process.subcommand import command_line

from .node_home import NodeHome
from .nodes import SERVING, ClusterNode, write_node_list
from .stack_order import EntranceOrder

HEALTH_S = 1.0
START_AGAIN_S = 2.0
NODES_FILE, LOG_FILE = "nodes.json", "router.log"


class EntranceProcess:
    """One.

    Attributes:
        order: what it was made for.
        up: whether it answered when it was asked last.
        reason: why it ended, one line, until it answers again; empty if it did not.
    """

    def __init__(self, cluster: str, order: EntranceOrder) -> None:
        self.order, self.up, self.reason = order, False, ""
        self._home = NodeHome(cluster, {})
        self._listed: list[tuple[str, str, str]] = []
        self._process: subprocess.Popen[bytes] | None = None
        self._told = new_reason_file()
        self._not_before = 0.0

    @property
    def url(self) -> str:
        """Where clients come."""
        return f"http://{netloc(self.order.host, self.order.port)}"

    def keep(self, nodes: Sequence[ClusterNode]) -> None:
        """Let it know these nodes, and see that it runs, unless it was stopped. Raises OSError."""
        if self._told < 0:
            return
        listed = [(node.name, node.url, node.state) for node in nodes]
        if listed != self._listed:
            write_node_list(self._home.path / NODES_FILE, nodes)
            self._listed = listed
        ended = self._process is None or self._process.poll() is not None
        if ended and self._process is not None:
            self.reason = reason_of(self._told) or f"it ended with {self._process.returncode}"
        if ended and time.monotonic() >= self._not_before and any(node.state == SERVING for node in nodes):
            self._not_before = time.monotonic() + START_AGAIN_S
            self._start()
        self.up = not ended and self._answers()
        self.reason = "" if self.up else self.reason

    def stop(self) -> None:
        """End it, and remove what it had; a second time nothing."""
        told, self._told = self._told, -1
        if told < 0:
            return
        os.close(told)
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        self._home.remove()

    def _start(self) -> None:
        files = [f"--nodes-file={self._home.path / NODES_FILE}", f"--router-log={self._home.path / LOG_FILE}"]
        where = [f"--host={self.order.host}", f"--port={self.order.port}", f"--router={self.order.router}"]
        program = [f"--router-program={self.order.router_program}"] if self.order.router_program else []
        command = command_line("entrance", *files, *where, *program)
        tied = [sys.executable, "-P", "-m", "quire_services.cluster.tied_process", str(os.getpid()), *command]
        environment = {**os.environ, REASON_VARIABLE: str(self._told)}
        self._process = subprocess.Popen(tied, stdin=subprocess.DEVNULL, env=environment, pass_fds=[self._told])

    def _answers(self) -> bool:
        host = ANY_ADDRESS.get(self.order.host, self.order.host)
        connection = http.client.HTTPConnection(host, self.order.port, timeout=HEALTH_S)
        with suppress(OSError, http.client.HTTPException):
            try:
                connection.request("GET", "/health")
                return connection.getresponse().status == http.client.OK
            finally:
                connection.close()
        return False
