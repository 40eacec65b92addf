"""Servers under test: started, asked what they hold, and stopped, the same way for each side.

Each runs in a process group of its own, and the group is gone when its context is left. One that is not measured can be
put to rest: even an idle server wakes often, and each time takes a core from the one that is measured.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import IO, Any, Self

from bench.load.generator import Endpoint
from bench.processes.side import SideError
from quire_kv import QuireError

START_S = 400.0  # a compiling server on a busy machine
STOP_S = 45.0  # ours gives each of three groups ten seconds, and what outlives it would be left
SAMPLE_S = 0.1
HOST = "127.0.0.1"


def free_port() -> int:
    """A TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


class Server:
    """One server process with all it starts, as a context manager.

    Attributes:
        name: in the tables.
        settings: what it was started with, for the report.
    """

    name = ""

    def __init__(self, command: list[str], environment: dict[str, str], settings: dict[str, Any]) -> None:
        self.settings = settings
        self.directory = Path(tempfile.mkdtemp(prefix="quire-bench-"))
        self._command, self._environment = command, environment
        self._log: IO[bytes] | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self._log = (self.directory / "log").open("wb")
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            env={**os.environ, **self._environment},
            start_new_session=True,
        )
        deadline = time.monotonic() + START_S
        try:
            while not self.ready():
                if self._process.poll() is not None or time.monotonic() > deadline:
                    said = (self.directory / "log").read_text(errors="replace")[-3000:]
                    raise SideError(f"{self.name} did not start:\n{said}")
                time.sleep(0.2)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def rest(self) -> None:
        """Stop its processes where they are; they keep what they hold."""
        self._signal(signal.SIGSTOP)

    def wake(self) -> None:
        """Let its processes go on."""
        self._signal(signal.SIGCONT)

    def _signal(self, number: signal.Signals) -> None:
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)

    def stop(self) -> None:
        """Stop the server and whatever it started."""
        if self._process is None:
            return
        self._process.terminate()
        self.wake()  # what rests does not hear of it
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        self._process = None
        if self._log is not None:
            self._log.close()
        shutil.rmtree(self.directory, ignore_errors=True)

    def bound_threads(self) -> int:
        """OpenMP threads that one of its processes was started with; 0 if none was told."""
        assert self._process is not None
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if os.getpgid(int(entry.name)) == self._process.pid:
                    told = re.search(rb"\0OMP_NUM_THREADS=(\d+)\0", b"\0" + (entry / "environ").read_bytes())
                    if told:
                        return int(told.group(1))
        return 0

    def last_words(self) -> str:
        """The last line of its log that names an error, empty without one."""
        log = self.directory / "log"
        lines = log.read_text(errors="replace").splitlines() if log.exists() else []
        return next((line.strip()[-300:] for line in reversed(lines) if "Error" in line), "")

    # --- what differs -------------------------------------------------------------------------------------------

    def ready(self) -> bool:
        """Whether requests are answered."""
        raise NotImplementedError

    def target(self, isolated: bool) -> Endpoint:
        """Where requests go; ``isolated``: no tenant may profit from another's private prompt."""
        raise NotImplementedError

    def publish(self, prompts: tuple[str, ...]) -> None:
        """Share prompts between tenants on purpose, where the server knows how."""

    def kv_bytes(self) -> float:
        """Bytes of keys and values that running requests (and publications) hold now."""
        raise NotImplementedError

    def forget(self) -> None:
        """Empty the prefix cache."""
        raise NotImplementedError


class Elsewhere(Server):
    """A server that was started elsewhere: any OpenAI-compatible URL."""

    name = "peer"

    def __init__(self, url: str, key: str) -> None:
        super().__init__([], {}, {"url": url})
        found = re.fullmatch(r"http://([^:/]+):(\d+)(/v1)?/?", url)
        if not found:
            raise SideError(f"{url!r}: say http://HOST:PORT")
        self._host, self._port, self._key = found.group(1), int(found.group(2)), key
        self._model = ""

    def __enter__(self) -> Self:
        self._model = json.loads(get(self._port, "/v1/models", self._host, self._key))["data"][0]["id"]
        return self

    def stop(self) -> None:
        """Leave it alone."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def target(self, isolated: bool) -> Endpoint:
        """One key for all tenants, whose salts tell them apart."""
        return Endpoint(
            self._host,
            self._port,
            self._model,
            lambda _: self._key,
            lambda t: {"cache_salt": f"tenant-{t}"} if isolated else {},
        )

    def kv_bytes(self) -> float:
        """Unknown."""
        return 0.0

    def forget(self) -> None:
        """Not ours to do; prompts are new in each pair anyway."""


class Repeated:
    """Does something every ``each_s`` seconds, in a thread of its own, while the context is open."""

    def __init__(self, each_s: float, action: Callable[[], None]) -> None:
        self._each_s, self._action = each_s, action
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        while not self._end.wait(self._each_s):
            self._action()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()


class Peak(Repeated):
    """Samples ``server.kv_bytes`` every ``each_s`` seconds while the context is open; ``bytes`` is the largest."""

    def __init__(self, server: Server, each_s: float = SAMPLE_S) -> None:
        super().__init__(each_s, self._sample)
        self._server, self.bytes = server, 0.0

    def _sample(self) -> None:
        with contextlib.suppress(OSError, HTTPException, QuireError):
            self.bytes = max(self.bytes, self._server.kv_bytes())


def get(port: int, path: str, host: str = HOST, key: str = "") -> str:
    """The body of a page; raises OSError."""
    request = urllib.request.Request(f"http://{host}:{port}{path}", headers={"Authorization": f"Bearer {key}"})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.read().decode())


def status(port: int, path: str) -> int:
    """The status of a page, 0 without an answer."""
    try:
        get(port, path)
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return 0
    return 200
