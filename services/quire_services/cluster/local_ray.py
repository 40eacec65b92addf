"""A local Ray cluster, for a machine that is in none: as many of Ray's nodes as the cluster is to have, all here.

For trying it out, and for what one machine with several GPUs can carry: the stacks are as apart as on several machines.
Each of Ray's nodes is a ``ray start --block``, which takes its processes along when it ends; the folder

    /tmp/quire-UID-ray-NAME/   0700    local.json: these processes, by pid and start time
                                       token: without it nobody may speak to this Ray
                                       and what Ray keeps: sockets, logs

goes with them. The token is said in any case: Ray listens at the machine's address, whoever speaks to it may run
anything, and where the user has a token of Ray's own, a head would ask for that and the other nodes would not give it.
Nothing that others have started is touched, as ``ray stop`` would.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from quire_kvstore.host.attach_socket import start_ticks
from quire_proto.private_dir import insist_on_private
from quire_services.config.input_files import write_private

RAYLET_START_S, RAYLET_STOP_S, RAYLET_LOOK_S = 180.0, 20.0, 0.1  # a start takes five seconds where nothing else runs
_STARTED = "Ray runtime started"
OBJECT_STORE_BYTES = 80 << 20  # the least that Ray takes: nothing of ours goes there
# Ray's own take half a minute to see that a node is gone, made for networks that stutter.
_HEALTH = {
    "health_check_period_ms": 1000,
    "health_check_failure_threshold": 3,
    "health_check_initial_delay_ms": 1000,
}
RAY_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}


class LocalRayError(Exception):
    """It does not start; one line says why."""


@dataclass(frozen=True, slots=True)
class _Raylet:
    pid: int
    ticks: int

    def runs(self) -> bool:
        try:
            state = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()[0]
            return state not in "ZX" and start_ticks(self.pid) == self.ticks
        except OSError:
            return False


class LocalRay:
    """The local Ray cluster of one name. ``address``: empty while it does not run."""

    def __init__(self, name: str) -> None:
        self.path = Path(f"/tmp/quire-{os.getuid()}-ray-{name}")
        self._file = self.path / "local.json"
        self._token = self.path / "token"
        self.address, self._raylets = "", list[_Raylet]()
        with suppress(OSError, ValueError, KeyError, TypeError):
            found = json.loads(self._file.read_text())
            raylets = [_Raylet(**row) for row in found["raylets"]]
            if raylets and raylets[0].runs():  # the head; without it the others end
                self.address, self._raylets = found["address"], raylets

    @property
    def environment(self) -> dict[str, str]:
        """Of every process that is to speak to it, in place of ours."""
        ours = {name: value for name, value in os.environ.items() if name != "RAY_AUTH_TOKEN"}
        return {**ours, **RAY_ENVIRONMENT, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(self._token)}

    def grow(self, nodes: int, cpus: float, gpus: float) -> None:
        """Have at least so many of Ray's nodes, each with room for one stack. Raises LocalRayError."""
        if not self.address:
            self.stop()
            self.path.mkdir(mode=0o700, exist_ok=True)
            insist_on_private(self.path)
            write_private(self._token, secrets.token_hex(32))
        amounts = [f"--num-cpus={max(1, round(cpus + 0.499))}", f"--num-gpus={round(gpus + 0.499)}"]
        while sum(raylet.runs() for raylet in self._raylets) < nodes:
            self._start(["--address", self.address] if self.address else self._head(), amounts)

    def _head(self) -> list[str]:
        system = f"--system-config={json.dumps(_HEALTH)}"
        where = [f"--temp-dir={self.path / 'ray'}", "--node-ip-address=127.0.0.1"]
        return ["--head", "--port=0", "--include-dashboard=false", "--disable-usage-stats", system, *where]

    def _start(self, kind: list[str], amounts: list[str]) -> None:
        small = [f"--object-store-memory={OBJECT_STORE_BYTES}", "--block"]
        command = [sys.executable, "-P", "-m", "ray.scripts.scripts", "start", *kind, *small, *amounts]
        if self.address:
            command.append("--node-ip-address=127.0.0.1")
        log = self.path / f"node-{len(self._raylets)}.log"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                env=self.environment,
                start_new_session=True,
            )
        self._raylets.append(_Raylet(process.pid, start_ticks(process.pid)))
        self._save()
        until = time.monotonic() + RAYLET_START_S
        while not (_STARTED in log.read_text(errors="replace") and (self.address or self._found_address())):
            if time.monotonic() > until:
                raise LocalRayError(f"Ray has not started here within {RAYLET_START_S:g} s (see {log})")
            if process.poll() is not None:
                lines = log.read_text(errors="replace").strip().splitlines()
                raise LocalRayError(f"Ray does not start here: {lines[-1] if lines else 'it says nothing'} (see {log})")
            time.sleep(RAYLET_LOOK_S)
        if not self.address:
            self.address = self._found_address()
            self._save()

    def _found_address(self) -> str:
        """Where the head listens; it says so after it has said that it started."""
        with suppress(OSError):
            return (self.path / "ray" / "ray_current_cluster").read_text().strip()
        return ""

    def _save(self) -> None:
        rows = [{"pid": raylet.pid, "ticks": raylet.ticks} for raylet in self._raylets]
        write_private(self._file, json.dumps({"address": self.address, "raylets": rows}))

    def stop(self) -> bool:
        """End it, and remove its folder; whether there was one."""
        there = self.path.is_dir()
        for signum in (signal.SIGTERM, signal.SIGKILL):
            until = time.monotonic() + RAYLET_STOP_S
            for raylet in reversed(self._raylets):
                if raylet.runs():
                    with suppress(ProcessLookupError):
                        os.kill(raylet.pid, signum)
            while any(raylet.runs() for raylet in self._raylets) and time.monotonic() < until:
                time.sleep(RAYLET_LOOK_S)
        if there:
            shutil.rmtree(self.path, ignore_errors=True)
        self.address, self._raylets = "", []
        return there
