"""Readiness: which processes of a stack answer for themselves.

Asked from outside, never assumed from a started process: the kvstore answers ``stats``; an engine has a session in
state ``ready`` under its name and with the pid that was started; the gateway says so at ``/health``, which is 200
only while it has an engine to send requests to, and names itself there: what answers on the port may be another's. A
follower is ready when it runs: its store may be away.
"""

from __future__ import annotations

import http.client
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from quire_kv import QuireError, Stats
from quire_services.config.process_table import ProcessEntry
from quire_services.process.kvstore_call import kvstore_reader
from quire_services.process.port_check import ANY_ADDRESS

from .child import Child
from .declared.children import FOLLOWER

READINESS_TIMEOUT_S = 1.0
MAX_HEALTH_BYTES = 1 << 16  # of an answer; another's server may send anything


class Readiness:
    """Asks the processes in one run directory; ``instance`` is what the gateway there calls itself."""

    def __init__(self, run_dir: Path, host: str, port: int, instance: str) -> None:
        self._instance = instance
        self._run_dir = run_dir
        self._host = ANY_ADDRESS.get(host, host)
        self._port = port

    def among(self, children: Mapping[str, Child | ProcessEntry]) -> list[str]:
        """Names of those processes that are ready now."""
        stats = self._stats() if set(children) - {"gateway", FOLLOWER} else None
        sessions = {(s.name, s.pid) for s in stats.sessions if s.state == "ready"} if stats else set()
        ready = []
        for name, child in children.items():
            if not child.pid:
                continue
            if name == "gateway":
                answer = bool(self.health())
            elif name == "kvstore":
                answer = stats is not None
            elif name == FOLLOWER:
                answer = True
            else:
                answer = (name, child.pid) in sessions
            if answer:
                ready.append(name)
        return ready

    def _stats(self) -> Stats | None:
        try:
            with kvstore_reader(self._run_dir, READINESS_TIMEOUT_S) as reader:
                return reader.stats()
        except (QuireError, OSError):
            return None

    def health(self) -> dict[str, Any]:
        """What our gateway says of itself; empty while it is not there, or has no engine."""
        connection = http.client.HTTPConnection(self._host, self._port, timeout=READINESS_TIMEOUT_S)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            said: dict[str, Any] = json.loads(answer.read(MAX_HEALTH_BYTES))
            return said if answer.status == 200 and said.get("instance") == self._instance else {}
        except (OSError, ValueError, AttributeError, http.client.HTTPException):
            return {}
        finally:
            connection.close()
