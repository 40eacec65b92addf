"""Front: the engine's side of the link to the gateway, on a thread and event loop of its own.

It connects to the gateway's socket, again and again, with back-off however the connection before ended, says hello,
reports the load, and carries requests in and outputs out. The engine's thread is never blocked by it: requests arrive
in a queue, outputs are handed over and written by the loop. When the gateway goes away no reader of an answer
is left, so every request is aborted. What fails in this thread, for want of memory as a rule, fails in the engine's:
an engine that hears no gateway any more, or has lost an output, must end.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue

import structlog
import uvloop

from quire_proto.gateway_link import (
    MAX_MESSAGE_BYTES,
    Abort,
    Drain,
    Generate,
    Handoff,
    Hello,
    Load,
    Message,
    Outputs,
    Received,
    Refused,
    decode_message,
    encode_message,
)
from quire_proto.wire.codec import CodecError

LOAD_PERIOD_S = 0.5
BACKOFF_S = (0.05, 1.0)
REFUSED_S = 5.0  # until a gateway is asked again that refused this engine

log = structlog.get_logger()


Arrived = Generate | Abort | Handoff | Drain


class GatewayLost:
    """Put into the inbox when the link breaks: no answer is read any more."""


class Front:
    """Link thread of one engine.

    Args:
        socket_path: the gateway's socket.
        hello: what the engine serves.
        load: called on the loop's thread for the present load.
    """

    def __init__(self, socket_path: Path, hello: Hello, load: Callable[[], Load]) -> None:
        self._path = socket_path
        self._hello = hello
        self._load = load
        self._inbox: SimpleQueue[Arrived | GatewayLost | None] = SimpleQueue()
        self._loop = uvloop.new_event_loop()
        self._writer: asyncio.StreamWriter | None = None
        self._stopping = False
        self._refused = ""
        self._broken: BaseException | None = None
        self._loop.set_exception_handler(lambda _, context: self._break(context.get("exception")))
        self._thread = threading.Thread(target=self._run, name="front", daemon=True)

    def start(self) -> None:
        """Start connecting."""
        self._thread.start()

    @property
    def connected(self) -> bool:
        """Whether there is a gateway."""
        return self._writer is not None

    def receive(self, timeout_s: float) -> list[Arrived | GatewayLost]:
        """All messages that have arrived; waits up to ``timeout_s`` for the first. Raises what has broken the link's
        thread."""
        out: list[Arrived | GatewayLost] = []
        with contextlib.suppress(Empty):
            message = self._inbox.get(timeout=timeout_s) if timeout_s > 0 else self._inbox.get_nowait()
            while True:
                if message is not None:
                    out.append(message)
                message = self._inbox.get_nowait()
        if self._broken is not None:
            raise self._broken
        return out

    def wake(self) -> None:
        """Make a waiting ``receive`` return."""
        self._inbox.put(None)

    def send(self, outputs: Outputs) -> None:
        """Hand a step's outputs to the link."""
        self._submit(outputs)

    def report(self) -> None:
        """Send the load now instead of at the next period."""
        self._submit(self._load())

    def stop(self) -> None:
        """Flush what is queued, close the link and end the thread."""
        self._stopping = True
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._close)
        self._thread.join(timeout=2)

    def _submit(self, message: Message) -> None:
        data = encode_message(message)
        with contextlib.suppress(RuntimeError):  # the loop is closed: the engine is stopping
            self._loop.call_soon_threadsafe(self._write, data)

    def _write(self, data: bytes) -> None:
        if self._writer is not None and not self._writer.is_closing():
            self._writer.write(data)

    def _close(self) -> None:
        if self._writer is not None:
            self._writer.close()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._connect_forever())
        except asyncio.CancelledError:
            pass
        except BaseException as exc:
            self._break(exc)
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._loop.close()

    def _break(self, exc: BaseException | None) -> None:
        if exc is not None and not isinstance(exc, OSError):  # that is the end of a connection, which its reader sees
            self._broken = self._broken or exc
            self.wake()

    async def _connect_forever(self) -> None:
        delay, longest = BACKOFF_S
        while not self._stopping:
            try:
                reader, writer = await asyncio.open_unix_connection(str(self._path))
            except OSError:
                await asyncio.sleep(delay)
                delay = min(2 * delay, longest)
                continue
            began = self._loop.time()
            refused = await self._converse(reader, writer)
            if refused and refused != self._refused:
                log.error("refused_by_gateway", reason=refused)  # once: asked again it says the same for long
            self._refused = refused
            if refused:
                delay = REFUSED_S
            elif self._loop.time() - began > longest:
                delay = BACKOFF_S[0]
            await asyncio.sleep(delay)
            delay = min(2 * delay, longest)

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        """Until the connection ends; returns why the gateway refused this engine, if it did."""
        self._writer = writer
        ticker = asyncio.ensure_future(self._report_forever())
        ticker.add_done_callback(lambda task: None if task.cancelled() else self._break(task.exception()))
        try:
            writer.write(encode_message(self._hello))
            writer.write(encode_message(self._load()))
            log.info("gateway_connected")
            while True:
                length = int.from_bytes(await reader.readexactly(4), "little")
                if length > MAX_MESSAGE_BYTES:
                    raise CodecError("TOO_LARGE", f"a message of {length} bytes")
                message = decode_message(await reader.readexactly(length))
                if isinstance(message, Refused):
                    return message.reason
                if isinstance(message, Generate):
                    writer.write(encode_message(Received(message.request)))  # before it can do any harm
                if isinstance(message, Arrived):
                    self._inbox.put(message)
        except (OSError, EOFError, CodecError) as exc:
            log.warning("gateway_lost", reason=str(exc))
            return ""
        finally:
            self._writer = None
            ticker.cancel()
            writer.close()
            self._inbox.put(GatewayLost())

    async def _report_forever(self) -> None:
        while True:
            await asyncio.sleep(LOAD_PERIOD_S)
            self._write(encode_message(self._load()))
