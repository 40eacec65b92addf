"""``quire bench replay``: run a trace of requests through the store and count hits.

The store is the real one: each request is an allocate, a fill, a seal and a free, in the order of the file and without
time in between, so only its own blocks are held while it is served. Only prompts take blocks. One id of the trace is
one block, a partial last one included; its digest is a hash of its parent's and of the id.

    hit rate = blocks of leading runs found / block references, cold start included

Two details make that exact. A request asks for one token more than its blocks hold, because the store always leaves a
token to compute; the pool has one block more than the capacity, for that token. A request longer than the capacity is
cut to it: what comes after could not stay.

The trace is gzip JSON lines: a header with ``block_tokens``, then ``ts`` (s), ``in``, ``out`` (tokens), ``s`` (session)
and ``b`` ([first id, count] runs) a request. A policy learns what a live store would tell it: the clock, the names as
they come, and how many tokens were generated.
"""

from __future__ import annotations

import argparse
import errno
import gzip
import json
import sys
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass
from hashlib import blake2b
from io import BytesIO
from pathlib import Path
from typing import Any

from quire_kv import OK, Allocate, Seal, Step
from quire_kvstore.blocks.eviction import EvictionPolicy
from quire_kvstore.blocks.policies import POLICIES, make_policy
from quire_kvstore.ops import lifecycle
from quire_kvstore.ops.allocate import allocate
from quire_kvstore.ops.free import free
from quire_kvstore.ops.slices import finish
from quire_kvstore.ops.step import step
from quire_kvstore.sessions.session import Peer, Session
from quire_kvstore.state import State
from quire_proto.messages import Free
from quire_proto.wire.digests import DIGEST_BYTES, ROOT_PARENT
from quire_proto.wire.u32 import pack_u32
from quire_services.config.input_files import one_line, read_bytes
from quire_services.config.settings import KvstoreSettings
from quire_services.process.flags import Parser

from .belady import BeladyPolicy, uses

BELADY = "belady"
Name = tuple[bytes, bytes]  # of a block: its digest and its parent's
MAX_BYTES = 1 << 30  # a trace, packed or not
MAX_BLOCKS = 1 << 20  # a request
MAX_BLOCK_TOKENS, MAX_OUTPUT = 1 << 10, 1 << 31
MAX_CAPACITY = 1 << 24
MAX_SECONDS = 1e10
NAME = "replay"


class TraceError(Exception):
    """The file is no trace; the message says where."""


@dataclass(frozen=True, slots=True)
class TraceRequest:
    """One line of a trace: arrival (s), generated tokens, digests of the prompt's blocks."""

    ts: float
    output: int
    digests: list[bytes]


@dataclass(frozen=True, slots=True)
class Trace:
    """A trace, read."""

    name: str
    block_tokens: int
    requests: list[TraceRequest]


@dataclass(frozen=True, slots=True)
class Line:
    """One line of the result."""

    trace: str
    policy: str
    capacity_blocks: int
    block_hit_rate: float
    requests: int
    evictions: int


def read_trace(file: Path) -> Trace:
    """Read a trace. Raises TraceError."""
    number = 1
    try:
        lines = _text(file).splitlines()
        header = json.loads(lines[0])
        name, block_tokens = one_line(str(header["trace"])), int(header["block_tokens"])
        if not 1 <= block_tokens <= MAX_BLOCK_TOKENS:
            raise ValueError(f"block_tokens must be 1 to {MAX_BLOCK_TOKENS}")
        names: dict[int, Name] = {}
        requests = []
        for line in lines[1:]:
            number += 1
            requests.append(_request(json.loads(line), names))
    except (OSError, EOFError, zlib.error) as error:
        raise TraceError(f"{file}: {getattr(error, 'strerror', None) or error}") from None
    except (ValueError, ArithmeticError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise TraceError(f"{file}, line {number}: not a line of a trace ({error!r})") from None
    return Trace(name, block_tokens, requests)


def _text(file: Path) -> str:
    """What a trace says, unpacked as far as it may be long."""
    with gzip.GzipFile(fileobj=BytesIO(read_bytes(file, MAX_BYTES))) as packed:
        content = packed.read(MAX_BYTES + 1)
    if len(content) > MAX_BYTES:
        raise OSError(errno.EFBIG, f"more than {MAX_BYTES} bytes when unpacked")
    return content.decode()


def _request(row: dict[str, Any], names: dict[int, Name]) -> TraceRequest:
    digests = []
    parent = ROOT_PARENT
    counts = [count for _, count in row["b"]]
    if min(counts, default=0) < 0 or sum(counts) > MAX_BLOCKS:
        raise ValueError(f"a request has 0 to {MAX_BLOCKS} blocks, and so has each run")
    for first, count in row["b"]:
        for identity in range(first, first + count):
            name = names.get(identity)
            if name is None:
                digest = blake2b(parent + identity.to_bytes(8, "little"), digest_size=DIGEST_BYTES).digest()
                name = names[identity] = (digest, parent)
            elif name[1] != parent:
                raise ValueError(f"block {identity} has two predecessors")
            digests.append(name[0])
            parent = name[0]
    ts = float(row["ts"])
    if not 0 <= ts < MAX_SECONDS:
        raise ValueError(f"ts {ts}")
    output = int(row["out"])
    if not 0 <= output <= MAX_OUTPUT:
        raise ValueError(f"out is 0 to {MAX_OUTPUT}, not {output}")
    return TraceRequest(ts, output, digests)


def replay(trace: Trace, capacity: int, policy: str) -> Line:
    """Serve a trace from an empty pool of ``capacity`` blocks."""
    state = State(capacity + 1, trace.block_tokens, _policy(trace, capacity, policy))
    session = lifecycle.attach(state, bytes(16), bytes(16), NAME, Peer(0, b""), lease_until=1 << 62)
    lifecycle.ready(session)
    hits = sum(_serve(state, session, request, capacity) for request in trace.requests)
    references = sum(len(request.digests) for request in trace.requests)
    rate = hits / references if references else 0.0
    return Line(trace.name, policy, capacity, round(rate, 6), len(trace.requests), state.counters.evictions)


def _policy(trace: Trace, capacity: int, name: str) -> EvictionPolicy:
    if name == BELADY:
        return BeladyPolicy(uses(request.digests for request in trace.requests))
    return make_policy(name, capacity + 1)


def _serve(state: State, session: Session, request: TraceRequest, capacity: int) -> int:
    """One request from arrival to end; returns its hits, in blocks."""
    state.tick(round(request.ts * 1000))
    digests = request.digests[:capacity]
    tokens = len(digests) * state.block_size
    reply = finish(allocate(state, session, Allocate(0, NAME, tokens + 1, b"".join(digests))))
    assert reply.code == OK, "an idle pool has room for its own size"
    hits = reply.computed // state.block_size
    sealed = Step(fills=pack_u32((0, tokens)), seals=(Seal(0, hits, b"".join(digests[hits:])),))
    filled = finish(step(state, session, sealed))
    assert filled.fills == bytes([OK]), "all written"
    assert all(seal.code == OK for seal in filled.seals), "all sealed"
    # Generated tokens take no blocks here; their number reaches the policy all the same.
    session.sequences[0].prompt = tokens - request.output
    finish(free(state, session, Free(pack_u32([0]))))
    return hits


def main(argv: list[str]) -> int:
    """Entry of ``quire bench replay``; returns the exit code."""
    parser = Parser(prog="quire bench replay", description="Hit rate of a trace, by capacity.")
    parser.add_argument("file", type=Path, help="trace, gzip JSON lines")
    parser.add_argument("--capacity-blocks", type=_positive, action="append", required=True, metavar="N")
    parser.add_argument("--policy", choices=(*POLICIES, BELADY), default=KvstoreSettings().policy)
    parser.add_argument("--json", action="store_true", help="a JSON object a line instead of a table")
    arguments = parser.parse_args(argv)
    try:
        trace = read_trace(arguments.file)
    except TraceError as error:
        print(f"quire bench replay: {one_line(str(error))}", file=sys.stderr)
        return 1
    show: Callable[[Line], str] = _json if arguments.json else _row
    for capacity in arguments.capacity_blocks:
        print(show(replay(trace, capacity, arguments.policy)), flush=True)
    return 0


def _positive(text: str) -> int:
    try:
        value = int(text)
    except ValueError:
        value = 0
    if not 1 <= value <= MAX_CAPACITY:
        raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number from 1 to {MAX_CAPACITY}")
    return value


def _json(line: Line) -> str:
    return json.dumps(asdict(line))


def _row(line: Line) -> str:
    return (
        f"{line.trace}  {line.policy}  {line.capacity_blocks:,} blocks  {line.block_hit_rate:8.3%} hit"
        f"  {line.requests:,} requests  {line.evictions:,} evictions"
    )
