"""A router's process: started, watched until it answers, started again when it ends, killed with its entrance.

The kernel kills it when the entrance dies, however that dies: an orphan would hold the port against the next one.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import signal
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import httpx
import structlog

from quire_services.process.reason import StartError

from .router import RouterSettings

START_S = 120.0  # Python, and a large module, on a machine that is busy
FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 10.0
STOP_S = 3.0
SET_DEATH_SIGNAL = 1  # prctl
log = structlog.get_logger()


class RouterProcess:
    """One.

    Args:
        settings: with what it runs.
        arguments: behind the program.
        health: the URL that answers 200 when it is ready.
        ready: called then, each time it has been started.
    """

    def __init__(
        self, settings: RouterSettings, arguments: Sequence[str], health: str, ready: Callable[[], Awaitable[None]]
    ) -> None:
        self._settings, self._command = settings, [str(settings.program), *arguments]
        self._health, self._ready = health, ready
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.answers = False

    async def start(self) -> None:
        """Start it, and keep it running. Raises StartError where there is no such program, or it ends at once."""
        await self._run()
        process = self._process
        assert process is not None
        try:
            await self._until_ready()
        except TimeoutError:
            await self.close()
            raise StartError(f"{self._command[0]} does not answer; see {self._settings.log}") from None
        if process.returncode is not None:
            raise StartError(f"{self._command[0]} ended with {process.returncode}; see {self._settings.log}")
        self._watch = asyncio.ensure_future(self._keep())

    async def close(self) -> None:
        """End it."""
        if self._watch is not None:
            self._watch.cancel()
            await asyncio.gather(self._watch, return_exceptions=True)
        self.answers, process = False, self._process
        if process is None or process.returncode is not None:
            return
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), STOP_S)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()

    async def _run(self) -> None:
        try:
            with self._settings.log.open("ab") as out:
                self._process = await asyncio.create_subprocess_exec(
                    *self._command,
                    stdin=asyncio.subprocess.DEVNULL,
                    stdout=out,
                    stderr=out,
                    cwd=self._settings.log.parent,  # some write files where they stand
                    start_new_session=True,  # Ctrl-C is for the entrance, which ends it in order
                    preexec_fn=_dies_with(os.getpid()),
                )
        except OSError as error:
            raise StartError(f"cannot run {self._command[0]}: {error.strerror}") from None

    async def _until_ready(self) -> None:
        """Until it answers, or has ended."""
        assert self._process is not None
        async with asyncio.timeout(START_S):
            while self._process.returncode is None:
                with contextlib.suppress(httpx.HTTPError):
                    if (await self._settings.client.get(self._health, timeout=1)).status_code == 200:
                        await self._ready()
                        self.answers = True
                        return
                await asyncio.sleep(0.05)

    async def _keep(self) -> None:
        pause = FIRST_PAUSE_S
        while True:
            assert self._process is not None
            code = await self._process.wait()
            self.answers = False
            log.warning("router_ended", code=code, again_in_s=pause)
            await asyncio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE_S)
            try:
                await self._run()
                await self._until_ready()
            except StartError as error:
                log.error("router_away", reason=str(error))
            except TimeoutError:
                log.error("router_away", reason="it does not answer")
                with contextlib.suppress(ProcessLookupError):
                    self._process.kill()
            if self.answers:
                pause = FIRST_PAUSE_S
                log.info("router_back")


def _dies_with(parent: int) -> Callable[[], None]:
    """A hook for the new process: be killed when ``parent`` dies, at once if it is dead already."""
    prctl = ctypes.CDLL(None, use_errno=True).prctl

    def hook() -> None:
        if prctl(SET_DEATH_SIGNAL, signal.SIGKILL, 0, 0, 0) != 0 or os.getppid() != parent:
            os._exit(1)

    return hook


def program_of(given: str, name: str) -> Path:
    """The program of a router: as given, else beside our own Python, else on the path. Raises StartError."""
    import shutil
    import sys

    if given:
        path = Path(given).absolute()  # no symlink resolved: a virtual environment's python is one
        if not os.access(path, os.X_OK) or path.is_dir():
            raise StartError(f"--router-program {given}: no program that can be run")
        return path
    beside = Path(sys.executable).parent / name
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        raise StartError(f"no {name} beside {sys.executable} or on the path: install it, or say --router-program")
    return Path(found)
