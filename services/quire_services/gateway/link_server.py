"""Link server: the socket that engines connect to.

One connection is one engine: hello first, then loads and outputs. Whatever breaks a connection - end of the process,
bytes that are not the protocol, silence before the hello - ends in the same place: the engine is taken out and what
it carried goes on elsewhere. A stream that is written to never blocks the loop: requests are bounded, and an engine
that stopped reading also stops reporting and gets no more of them.
"""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import structlog

from quire_proto.gateway_link import (
    BOTH,
    DECODE,
    MAX_MESSAGE_BYTES,
    PREFILL,
    Hello,
    Load,
    Message,
    Outputs,
    Received,
    Refused,
    decode_message,
    encode_message,
)
from quire_proto.peer_socket import socket_state
from quire_proto.private_dir import free_socket_name, insist_on_private
from quire_proto.wire.codec import CodecError

from .engines import Engines
from .link.engine import Engine

HELLO_S = 5.0
log = structlog.get_logger()


class SocketTaken(Exception):
    """Another process listens on the socket already."""


class LinkServer:
    """Listens on ``path`` (mode 0600) and keeps ``engines`` up to date."""

    def __init__(self, engines: Engines, path: Path) -> None:
        self._engines = engines
        self._path = path
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()

    async def start(self) -> None:
        """Listen. Raises SocketTaken if another gateway does, OSError if the directory cannot be used."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        insist_on_private(self._path.parent)
        _remove_stale(self._path)
        mask = os.umask(0o177)
        try:
            self._server = await asyncio.start_unix_server(self._connection, str(self._path))
        finally:
            os.umask(mask)

    async def stop(self) -> None:
        """Close the socket and every connection."""
        if self._server is not None:
            self._server.close()
            for writer in tuple(self._connections):
                writer.close()
            await self._server.wait_closed()
        self._path.unlink(missing_ok=True)

    async def _connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._connections.add(writer)
        engine: Engine | None = None
        reason, refused = "end of the connection", ""
        try:
            hello = await asyncio.wait_for(_read(reader), HELLO_S)
            if not isinstance(hello, Hello):
                raise CodecError("BAD_FIELD", "the first message must be hello")
            if hello.role not in (BOTH, PREFILL, DECODE):
                raise CodecError("BAD_FIELD", f"no engine is a {hello.role[:80]!r}")
            engine = Engine(hello, writer, self._engines.timed)
            if refused := self._engines.add(engine):
                engine = None
                writer.write(encode_message(Refused(refused)))
                log.warning("engine_refused", engine=hello.engine, engine_pid=hello.pid, reason=refused)
                return
            log.info("engine_connected", engine=hello.engine, engine_pid=hello.pid, model=hello.model)
            await self._listen(reader, engine)
        except (OSError, EOFError, TimeoutError):
            pass  # the plain end of a connection
        except CodecError as error:
            reason = error.message
        finally:
            if engine is not None:
                self._engines.remove(engine)
            self._connections.discard(writer)
            writer.close()
            if not refused and (self._server is None or self._server.is_serving()):  # else this side ends it
                log.info("engine_disconnected", engine=engine.hello.engine if engine else "", reason=reason)

    async def _listen(self, reader: asyncio.StreamReader, engine: Engine) -> None:
        while True:
            message = await _read(reader)
            if isinstance(message, Load):
                self._engines.on_load(engine, message)
            elif isinstance(message, Received):
                engine.on_received(message)
            elif isinstance(message, Outputs):
                self._engines.on_outputs(engine, message)
                if any(output.prompt_logprobs for output in message.items):
                    await asyncio.sleep(0)  # many more may be there already
            else:
                raise CodecError("BAD_FIELD", f"an engine may not send {message.type}")


async def _read(reader: asyncio.StreamReader) -> Message:
    length = int.from_bytes(await reader.readexactly(4), "little")
    if length > MAX_MESSAGE_BYTES:
        raise CodecError("TOO_LARGE", f"a message of {length} bytes; the limit is {MAX_MESSAGE_BYTES}")
    return decode_message(await reader.readexactly(length))


def _remove_stale(path: Path) -> None:
    """Remove the socket of a gateway that is gone; raises SocketTaken if it is not gone."""
    if socket_state(path) == "alive":
        raise SocketTaken(f"another gateway listens on {path}")
    free_socket_name(path)
