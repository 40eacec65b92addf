"""The gateway's end of the link to the engines, on plain threads: requests out, tokens in.

Owns the answers. An answer ends exactly once: as its engine said, as ``aborted`` by us, or as ``lost`` when the
engine's connection broke before.
"""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from quire_proto.gateway_link import (
    Abort,
    Generate,
    Hello,
    Load,
    Message,
    Output,
    Outputs,
    Sampling,
    decode_message,
    encode_message,
)
from quire_proto.wire.u32 import pack_u32, unpack_u32


@dataclass(slots=True)
class EngineAnswer:
    """One request and what came back; times from ``time.monotonic``."""

    name: str
    engine: str
    prompt: tuple[int, ...]
    tokens: list[int] = field(default_factory=list)
    finish: str = ""
    code: str = ""
    cached_tokens: int = 0
    asked: float = field(default_factory=time.monotonic)
    first: float = 0.0
    last: float = 0.0
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class _Engine:
    connection: socket.socket
    ready: bool = False
    counters: dict[str, int] = field(default_factory=dict)
    open: dict[str, EngineAnswer] = field(default_factory=dict)


class Gateway:
    """Listens on ``path`` until closed."""

    def __init__(self, path: Path) -> None:
        self._engines: dict[str, _Engine] = {}
        self._lock = threading.Lock()
        self._asked = 0
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        threading.Thread(target=self._accept, daemon=True).start()

    def ready(self) -> set[str]:
        """Names of the engines that take requests."""
        with self._lock:
            return {name for name, engine in self._engines.items() if engine.ready}

    def counters(self, engine: str) -> dict[str, int]:
        """What an engine counted, as it last said; nothing if it is not there."""
        with self._lock:
            there = self._engines.get(engine)
            return dict(there.counters) if there else {}

    def ask(self, engine: str, prompt: Sequence[int], tokens: int) -> EngineAnswer:
        """Send a greedy request of exactly ``tokens`` tokens; at once ``lost`` if the engine is not there."""
        with self._lock:
            self._asked += 1
            answer = EngineAnswer(f"request-{self._asked}", engine, tuple(prompt))
            there = self._engines.get(engine)
            if there is None:
                _end(answer, "lost")
                return answer
            there.open[answer.name] = answer
        how = Sampling(tokens, temperature=0.0, ignore_eos=True)
        self._send(there, Generate(answer.name, "tenant", pack_u32(prompt), how))
        return answer

    def abort(self, answer: EngineAnswer) -> None:
        """Stop a request: its answer ends here as ``aborted``, an engine says nothing more about it."""
        with self._lock:
            there = self._engines.get(answer.engine)
            if there is None or there.open.pop(answer.name, None) is None:
                return
            _end(answer, "aborted")
        self._send(there, Abort(answer.name))

    def close(self) -> None:
        """Close every socket."""
        self._listener.close()
        with self._lock:
            for engine in self._engines.values():
                engine.connection.close()

    def _send(self, engine: _Engine, message: Message) -> None:
        with contextlib.suppress(OSError):  # its reader sees the end and ends the answers
            engine.connection.sendall(encode_message(message))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._read, args=(connection,), daemon=True).start()

    def _read(self, connection: socket.socket) -> None:
        engine, name = _Engine(connection), ""
        with connection, connection.makefile("rb") as stream, contextlib.suppress(OSError):
            while len(head := stream.read(4)) == 4:
                message = decode_message(stream.read(int.from_bytes(head, "little")))
                if isinstance(message, Hello):
                    name = message.engine
                    with self._lock:
                        self._engines[name] = engine
                else:
                    self._take(engine, message)
        with self._lock:
            if self._engines.get(name) is engine:
                del self._engines[name]
            for answer in engine.open.values():
                _end(answer, "lost")

    def _take(self, engine: _Engine, message: Message) -> None:
        with self._lock:
            if isinstance(message, Load):
                engine.ready, engine.counters = message.ready, message.counters
            elif isinstance(message, Outputs):
                for item in message.items:
                    _deliver(engine, item)


def _deliver(engine: _Engine, item: Output) -> None:
    answer = engine.open.get(item.request)
    if answer is None:
        return
    answer.last = time.monotonic()
    answer.first = answer.first or answer.last
    answer.tokens += unpack_u32(item.tokens)
    answer.cached_tokens = max(answer.cached_tokens, item.cached_tokens)
    if item.finish:
        answer.code = item.code
        _end(answer, item.finish)
        del engine.open[answer.name]


def _end(answer: EngineAnswer, finish: str) -> None:
    answer.finish = finish
    answer.ended.set()
