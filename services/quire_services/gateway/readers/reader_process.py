"""Reader processes: where long bodies are parsed, rendered and encoded, apart from the loop that serves all clients.

Parsing, templates and tokenizers hold the interpreter's lock for as long as a body is long, thread or not; in a process
of its own a body costs the others nothing but the core it runs on, its memory is bounded by the kernel, and it ends
when its client hangs up, whatever it is doing, because a process can be killed.

The gateway starts a *fork server* once, before it has threads or a loop: a process that holds the tokenizer and does
nothing but fork readers, in a millisecond each, that share its pages. It and its readers end when their socket does,
that is with the gateway, however it ends, and ignore the signals of a terminal and of a stop: what is being read when
the gateway drains is read to its end.

    reader's socket, both ways:   u32 length of JSON | u32 length of bytes | u8 has grown | JSON | bytes

While it reads a request that goes on from a response, a reader asks what is kept of that one (``lookup``).
"""

from __future__ import annotations

import os
import resource
import signal
import socket
import struct
import sys
import threading
import warnings
from dataclasses import asdict, astuple, replace
from typing import Any

import orjson
import structlog

from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.http.bug_line import log_bug
from quire_services.gateway.http.errors import ApiError, body_too_large
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.response_api.response_request import Lookup
from quire_services.process.gc_tuning import freeze_objects

from .brief_request import error_fields, error_of, without_prompt
from .prompt_answers import PROMPT_APIS, prompt_answer
from .request_reader import RequestReader

READER_MEMORY = 512 << 20  # of one reader, beyond what the fork server has
READER_GROWTH = 128 << 20  # a reader that has grown by so much is replaced: allocators keep what they have
FRAME_HEAD = struct.Struct("<II?")


def too_large() -> ApiError:
    """413: reading it would take more memory than one body may."""
    return body_too_large(f"reading the body takes more than the {READER_MEMORY >> 20} MiB that one body may use")


class ForkServer:
    """The parent's end. ``fork`` blocks for some milliseconds; threads may call it."""

    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._one = threading.Lock()

    @classmethod
    def start(cls, reader: RequestReader) -> ForkServer:
        """Fork the fork server. Call before there are threads."""
        ours, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with warnings.catch_warnings():
            # Libraries' idle threads (BLAS) are no danger: the child runs none of their code.
            warnings.simplefilter("ignore", DeprecationWarning)
            pid = os.fork()
        if pid == 0:
            _leave_after(_fork_readers, its, reader)
        its.close()
        return cls(ours)

    def fork(self, niceness: int) -> tuple[socket.socket, int]:
        """A new reader: its socket, and a pidfd to kill it. Raises OSError if the fork server is gone."""
        ours, its = socket.socketpair()
        with its, self._one:
            socket.send_fds(self._control, [bytes([niceness])], [its.fileno()])
            _, fds, _, _ = socket.recv_fds(self._control, 1, 1)
        if not fds:
            ours.close()
            raise OSError("no reader could be started")
        return ours, fds[0]

    def close(self) -> None:
        """Let it end."""
        self._control.close()


def _leave_after(work: Any, *arguments: Any) -> None:
    """Do the child's work and end without returning to what its parent was doing."""
    try:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _close_all_but(*(a.fileno() for a in arguments if isinstance(a, socket.socket)))
        work(*arguments)
    except BaseException as error:
        log_bug(error)
    finally:
        sys.stderr.flush()
        os._exit(0)


def _close_all_but(kept: int) -> None:
    os.closerange(3, kept)
    os.closerange(kept + 1, resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def _fork_readers(control: socket.socket, reader: RequestReader) -> None:
    """Fork readers as long as the gateway asks."""
    import llguidance  # noqa: F401 - readers need it at once, and share its pages

    freeze_objects()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    while True:
        asked, fds, _, _ = socket.recv_fds(control, 1, 1)
        if not asked:
            return
        with socket.socket(fileno=fds[0]) as its:
            pid = os.fork()
            if pid == 0:
                _leave_after(_serve, its, reader, asked[0])
            try:
                pidfd = os.pidfd_open(pid)
            except OSError:
                control.send(b"-")
                continue
            socket.send_fds(control, [b"+"], [pidfd])
            os.close(pidfd)


def _serve(its: socket.socket, reader: RequestReader, niceness: int) -> None:
    """Read bodies until the gateway wants no more."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.nice(niceness)
    at_first = _status("VmData")
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (at_first + READER_MEMORY, at_first + READER_MEMORY))
    while (asked := _receive(its)) is not None:
        head, raw = asked
        with structlog.contextvars.bound_contextvars(**head["log"]):
            answer = _answer(reader, head, raw, lambda *asked: _looked_up(its, *asked))
        del asked, head, raw
        _send(its, *answer, _status("VmData") > at_first + READER_GROWTH)
        del answer


def _looked_up(its: socket.socket, previous: str, references: list[str]) -> bytes:
    """What the gateway keeps of responses. Raises ApiError."""
    _send(its, orjson.dumps({"lookup": [previous, references]}), b"", False)
    answered = _receive(its)
    if answered is None:  # the gateway is gone, and nobody reads what would come of it
        raise EOFError
    head, lines = answered
    if "error" in head:
        raise error_of(head["error"])
    return lines


def _answer(reader: RequestReader, head: dict[str, Any], raw: bytes, lookup: Lookup) -> tuple[bytes, bytes]:
    try:
        limits = Limits(*head["limits"])
        if head["api"] in PROMPT_APIS:
            return b"{}", prompt_answer(reader, head["api"], raw, head["tenant"], lambda: limits, lookup)
        read = reader.read(head["api"], raw, head["tenant"], lambda: limits, lookup)
        lengths = [len(prompt) for prompt in read.prompts]
        fields: dict[str, Any] = {
            "body": orjson.Fragment(without_prompt(read)),
            "lengths": lengths,
            "texts": read.texts,
            "echo": read.echo,
            "constraint": read.constraint and astuple(read.constraint),
            "preamble": read.preamble,
        }
        data = [pack_u32(prompt) for prompt in read.prompts]
        if read.draft:
            data.append(read.draft.items)
            fields["draft"] = asdict(replace(read.draft, items=b"")) | {"items": None}
        return orjson.dumps(fields), b"".join(data)
    except ApiError as error:
        return orjson.dumps({"error": error_fields(error)}), b""
    except MemoryError:
        return orjson.dumps({"error": error_fields(too_large())}), b""
    except Exception as error:
        log_bug(error)
        return orjson.dumps({"error": None}), b""


def _send(to: socket.socket, head: bytes, data: bytes, grown: bool) -> None:
    to.sendall(FRAME_HEAD.pack(len(head), len(data), grown) + head)
    to.sendall(data)


def _receive(of: socket.socket) -> tuple[dict[str, Any], bytes] | None:
    """The next message; None at the end."""
    lengths = _exactly(of, FRAME_HEAD.size)
    if not lengths:
        return None
    head, data, _ = FRAME_HEAD.unpack(lengths)
    return orjson.loads(_exactly(of, head)), _exactly(of, data)


def _exactly(of: socket.socket, size: int) -> bytes:
    out = bytearray(size)
    view, done = memoryview(out), 0
    while done < size:
        got = of.recv_into(view[done:])
        if not got:
            return b""
        done += got
    return bytes(out)


def _status(name: str) -> int:
    """A figure of this process in bytes, as the kernel reports it."""
    with open("/proc/self/status", encoding="ascii") as status:
        line = next(line for line in status if line.startswith(name + ":"))
    return int(line.split()[1]) * 1024
