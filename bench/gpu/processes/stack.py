"""A kvstore and engines as real processes, with a gateway that is only this: a socket that hands requests out.

The HTTP gateway is left out because a GPU machine may lack its packages, and because nothing of it touches the arena.
Engines find this gateway in the run directory as they would find the real one.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from bench.gpu.processes.link import EngineAnswer, Gateway
from quire_engine.checkpoint.layout import layout_of
from quire_kv import KVReader, QuireError, Stats
from quire_proto.wire.layout import E4M3

# Seconds for a start or an answer; in the interpreter, on a machine with anything else to do, much more.
PATIENCE_S = {"cuda": 75.0, "cpu": 400.0}
STOP_S = 10.0
STACKS_S = 2.0
LAST_LINES = 30
IPC, ENGINE_POISONED = "cuda-ipc", 4


def wait_for(condition: Callable[[], Any], within_s: float, what: str) -> Any:
    """Poll until ``condition`` is true; raises TimeoutError when the deadline passes."""
    deadline = time.monotonic() + within_s
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {within_s:.0f} s: {what}")
        time.sleep(0.01)
    return value


class Stack:
    """Processes over one pool; leaving the context ends them.

    Args:
        directory: of this stack, mode 0700 or new: sockets and logs.
        model: model directory.
        device: ``cuda`` or ``cpu`` (Triton's interpreter, shared host memory).
        blocks: of 16 tokens.
        arena: as ``kvstore.arena``; ignored on a CPU.
        dtype: that the model computes in.
        stored: that keys and values are kept in, as a layout names it; as ``dtype`` if empty.
        sequences: in a step of an engine at most; a graph is captured for each size up to it.
        logs: a folder that keeps what the processes say; ``directory`` if None.

    Attributes:
        kvstore_flags: what it is started with.

    If the context is left by a failure, every process writes down where it stands before it ends.
    """

    def __init__(
        self,
        directory: Path,
        model: Path,
        device: str,
        blocks: int,
        arena: str = "auto",
        dtype: str = "float32",
        stored: str = "",
        sequences: int = 32,
        logs: Path | None = None,
    ) -> None:
        directory.mkdir(mode=0o700, exist_ok=True)
        self.directory, self._logs, self.patience_s = directory, logs or directory, PATIENCE_S[device]
        layout = asdict(layout_of(model, stored or dtype, 16))
        (directory / "prepared.json").write_text(json.dumps({"layout": layout, "published": []}))
        self.kvstore_flags = [
            f"--blocks={blocks}",
            f"--arena={'shm' if device == 'cpu' else arena}",
            "--lease-ms=10000",
        ]
        self._engine = [f"--model={model}", f"--dtype={dtype}", "--attention=triton", "--block-size=16", "--threads=1"]
        # There is none that takes over what an engine leaves, and a GPU's seconds are dear.
        self._engine += [
            f"--max-sequences={sequences}",
            "--leave-s=0",
            *(["--kv-cache-dtype=fp8"] if stored == E4M3 else []),
        ]
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.gateway = Gateway(directory / "gateway.sock")

    def start(self, *engines: str) -> list[str]:
        """The kvstore and engines, until all take requests; their names."""
        self.start_kvstore()
        for name in engines:
            self.start_engine(name)
        self.wait_ready(*engines)
        return ["kvstore", *engines]

    def start_kvstore(self) -> None:
        """Start it and wait until it answers."""
        self._start("kvstore", "kvstore", *self.kvstore_flags)
        self._until(self._answers, "the kvstore answers")

    def start_engine(self, name: str) -> None:
        """Start one; ``wait_ready`` waits."""
        self._start(name, "engine", *self._engine, f"--name={name}")

    def wait_ready(self, *names: str) -> None:
        """Until these engines are attached and take requests."""
        self._until(lambda: set(names) <= self.gateway.ready(), f"{', '.join(names)} ready")

    def kill(self, name: str) -> None:
        """SIGKILL, and wait for the end of the process."""
        self.processes[name].kill()
        self.processes.pop(name).wait()
        wait_for(lambda: name not in self.gateway.ready(), self.patience_s, f"{name} is seen to be gone")

    def kill_kvstore(self, *engines: str) -> None:
        """SIGKILL, and start it again, until these engines take requests again. Weights that they map by IPC end them,
        so then they are started again, too."""
        ends = any(one.arena == IPC for one in self.stats().weights)
        self.kill("kvstore")
        for name in engines if ends else ():
            if (code := self.processes.pop(name).wait(self.patience_s)) != ENGINE_POISONED:
                raise RuntimeError(
                    f"{name} ended with {code} after its kvstore, not with {ENGINE_POISONED}\n{self.said()}"
                )
        self.start_kvstore()
        for name in engines if ends else ():
            self.start_engine(name)
        self._until(lambda: set(engines) <= {one.name for one in self.stats().sessions}, "engines attach again")
        self.wait_ready(*engines)

    def events(self, name: str, event: str) -> list[dict[str, Any]]:
        """What a process logged so far: lines of one event."""
        lines = (self._logs / f"{name}.log").read_text(errors="replace").splitlines()
        found = [json.loads(line) for line in lines if line.startswith("{")]
        return [line for line in found if line.get("event") == event]

    def ended(self, answer: EngineAnswer) -> EngineAnswer:
        """Wait for its end. Raises RuntimeError if that does not come."""
        if not answer.ended.wait(self.patience_s):
            there = f"{len(answer.tokens)} tokens after {self.patience_s:.0f} s"
            raise RuntimeError(f"{answer.name} at {answer.engine} has {there}")
        return answer

    def stats(self) -> Stats:
        """The kvstore's counters."""
        with KVReader(self.directory, timeout=10.0) as reader:
            return reader.stats()

    def said(self) -> str:
        """The last lines of every process's log."""
        parts = []
        for file in sorted(self._logs.glob("*.log")):
            lines = file.read_text(errors="replace").splitlines()[-LAST_LINES:] or ["said nothing"]
            parts += [f"{file.stem}: {line}" for line in lines]
        return "\n".join(parts)

    def _start(self, name: str, command: str, *flags: str) -> None:
        line = [sys.executable, *self._program(command), f"--run-dir={self.directory}", *flags]
        env = {**os.environ, "PYTHONFAULTHANDLER": "1"}
        with (self._logs / f"{name}.log").open("ab") as log:
            self.processes[name] = subprocess.Popen(line, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def _program(self, command: str) -> list[str]:
        return ["-P", "-m", "quire_services.cli", command]

    def _answers(self) -> bool:
        try:
            return bool(self.stats().num_blocks)
        except (QuireError, OSError):
            return False

    def _until(self, condition: Callable[[], Any], what: str) -> None:
        def alive() -> Any:
            for name, process in self.processes.items():
                if process.poll() is not None:
                    raise RuntimeError(f"{name} ended with {process.returncode} before: {what}\n{self.said()}")
            return condition()

        try:
            wait_for(alive, self.patience_s, what)
        except TimeoutError as exc:
            self._write_stacks()
            raise RuntimeError(f"{exc}\n{self.said()}") from None

    def _write_stacks(self) -> None:
        """Every process says in its log where it stands (faulthandler answers SIGABRT), and ends."""
        for process in self.processes.values():
            process.send_signal(signal.SIGABRT)
        for process in self.processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STACKS_S)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, _: BaseException | None, __: TracebackType | None) -> None:
        if kind is not None:
            self._write_stacks()
        kvstore = [self.processes.pop("kvstore")] if "kvstore" in self.processes else []
        for together in (list(self.processes.values()), kvstore):
            for process in together:
                process.terminate()
            for process in together:
                try:
                    process.wait(STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
        self.gateway.close()


def write_model(directory: Path, **sizes: Any) -> Path:
    """A random Llama; see ``bench.models.tiny.make_model``."""
    from bench.models.tiny import make_model

    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    return make_model(directory, "llama", **sizes)
