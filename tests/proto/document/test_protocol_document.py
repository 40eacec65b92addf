"""PROTOCOL.md says what the code does: field tables, examples in bytes, the digest vector, error codes."""

from __future__ import annotations

import dataclasses
import re
from importlib import import_module
from pkgutil import iter_modules
from typing import get_args

import pytest

from quire_engine.kv.step_grants import AT_LIMIT, NO_ROOM, OVER_LIMIT
from quire_engine.scheduling.front import BACKOFF_S, LOAD_PERIOD_S, REFUSED_S
from quire_proto import gateway_link, messages
from quire_proto.client.requests import UNORDERED_FROM
from quire_proto.messages import (
    Allocate,
    Allocated,
    Attach,
    Attached,
    Fork,
    Limits,
    Seal,
    Sealed,
    Step,
    Stepped,
)
from quire_proto.op_table import OPS, Needs
from quire_proto.wire import envelope, errors, handles, histogram, layout
from quire_proto.wire.codec import encode, from_map, to_map
from quire_proto.wire.digests import chain, domain_key, salted
from quire_proto.wire.envelope import Reply, Request, decode_reply, decode_request
from quire_proto.wire.layout import Layout
from quire_proto.wire.u32 import pack_u32 as u32
from quire_services.gateway.generations import KVSTORE_LOST
from quire_services.gateway.http.errors import engine_error
from quire_services.gateway.link.engine import MAX_SILENCE_S
from quire_services.gateway.link_server import HELLO_S
from tests.support.repository import ROOT

DOCUMENT = (ROOT / "proto" / "PROTOCOL.md").read_text()

ARENA = "/quire-0123456789abcdef0123456789abcdef"
BOOT, SESSION, TOKEN, NONCE = (bytes([first]) * 16 for first in (0xB0, 0x5E, 0x70, 0x0C))
KEY = domain_key(bytes(range(32)), "acme", 0)
DIGESTS = chain(KEY, range(1, 10), 4)
LAYOUT = Layout("tiny", "ab12", "{}", "", "float32", 4, 2, 1, 8)

EXAMPLES: dict[str, bytes] = {
    "hello": encode({"version": envelope.VERSION, "boot": BOOT, "token": TOKEN}),
    "attach": Request(BOOT, b"", UNORDERED_FROM, "attach", 5000, to_map(Attach(NONCE, TOKEN, "e0"))).encode(),
    "attached": Reply(
        BOOT,
        UNORDERED_FROM,
        "",
        to_map(
            Attached(
                SESSION, 10_000, Limits(16_777_216, 8192, 64, 8), LAYOUT, 64, handles.ShmHandle(ARENA, 32768), (), 1
            )
        ),
    ).encode(),
    "ready": Request(BOOT, SESSION, 1, "ready", 5000, {}).encode(),
    "ready-ok": Reply(BOOT, 1, "", {}).encode(),
    "allocate": Request(BOOT, SESSION, 2, "allocate", 5000, to_map(Allocate(7, "acme", 9, DIGESTS))).encode(),
    "allocated": Reply(BOOT, 2, "", to_map(Allocated(0, 4, u32([3, 8, 9])))).encode(),
    "step": Request(
        BOOT,
        SESSION,
        3,
        "step",
        5000,
        to_map(
            Step(
                fills=u32([7, 9]),
                seals=(Seal(7, 1, DIGESTS[32:]),),
                forks=(Fork(7, u32([8]), 9),),
                extends=u32([8, 10]),
            )
        ),
    ).encode(),
    "stepped": Reply(
        BOOT,
        3,
        "",
        to_map(
            Stepped(
                fills=b"\0",
                seals=(Sealed(0, 1),),
                forks=(messages.Forked(0),),
                extends=b"\0",
                blocks=u32([8, 2, 10]),
                copies=u32([1, 9, 10, 1]),
                publications_generation=1,
            )
        ),
    ).encode(),
    "copies-done": Request(BOOT, SESSION, 4, "step", 5000, to_map(Step(copies_done=u32([1])))).encode(),
    "claimed": Reply(BOOT, 5, "", to_map(Allocated(messages.CLAIMED, claimed=DIGESTS))).encode(),
    "wait": Request(BOOT, SESSION, UNORDERED_FROM, "wait", 30_000, to_map(messages.Wait(9, DIGESTS[32:]))).encode(),
    "waited": Reply(BOOT, UNORDERED_FROM, "", to_map(messages.Waited("sealed"))).encode(),
    "no-space": Reply(
        BOOT, 5, "", to_map(Allocated(messages.NO_SPACE, missing=2, scope="pool", retry_after_ms=20))
    ).encode(),
    "stale": Reply(BOOT, 6, "STALE_SESSION", {"message": "attach again", "detail": {}}).encode(),
}

TYPES = {
    "int": "int",
    "str": "str",
    "bytes": "bytes",
    "bool": "bool",
    "float": "float",
    "U32s": "u32[]",
    "Pairs": "u32[][2]",
    "Triples": "u32[][3]",
    "Quads": "u32[][4]",
    "Digests": "digest[]",
    "dict[str, int]": "map of int",
    "dict[str, Distribution]": "map of Distribution",
    "Layout | None": "Layout or nil",
}
MESSAGES = [import_module(f"{messages.__name__}.{found.name}") for found in iter_modules(messages.__path__)]
BODIES = [
    cls
    for module in (*MESSAGES, handles, histogram, layout, gateway_link)
    for cls in vars(module).values()
    if dataclasses.is_dataclass(cls) and isinstance(cls, type) and cls.__module__ == module.__name__
]


def wire_type(hint: object) -> str:
    """A field's type as the document writes it."""
    many = re.fullmatch(r"tuple\[(\w+), \.\.\.\]", str(hint))
    return f"array of {TYPES.get(many[1], many[1])}" if many else TYPES.get(str(hint), str(hint))


def wire_default(field: dataclasses.Field[object]) -> str:
    """A field's default as the document writes it."""
    if field.default_factory is not dataclasses.MISSING:
        return "empty"
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default in (b"", ()):
        return "empty"
    return {None: "nil", "": '""'}.get(field.default, str(field.default))  # type: ignore[call-overload, no-any-return]


@pytest.mark.parametrize("cls", [cls for cls in BODIES if dataclasses.fields(cls)], ids=lambda cls: cls.__name__)
def test_every_field_is_in_the_document(cls: type) -> None:
    """Each body has a table with exactly its fields, in order, with type and default."""
    section = re.search(rf"^`{cls.__name__}`:(?:[^\n]+\n)+\n\| field .*?\n\n", DOCUMENT, re.S | re.M)

    assert section, f"no table for {cls.__name__}"
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \|", section[0], re.M)
    assert [(name, kind.strip(), default.strip().strip("`")) for name, kind, default in rows] == [
        (f.name, wire_type(f.type), wire_default(f)) for f in dataclasses.fields(cls)
    ]


def test_the_examples_are_the_codec_s_bytes() -> None:
    """Every dump in the document is what the codec makes, and every example is in the document."""
    dumps = {
        name: bytes.fromhex("".join(line.partition("#")[0] for line in body.splitlines()))
        for name, body in re.findall(r"^```hex ([\w-]+)\n(.*?)^```", DOCUMENT, re.S | re.M)
    }

    assert dumps == EXAMPLES


def test_the_examples_decode_to_what_they_say() -> None:
    """A request or reply read from the document's bytes has the fields the text gives."""
    request = decode_request(EXAMPLES["allocate"])
    reply = decode_reply(EXAMPLES["allocated"])

    assert (request.op, request.number, request.session) == ("allocate", 2, SESSION)
    assert from_map(Allocate, request.body).digests == DIGESTS
    assert from_map(Allocated, reply.body).computed == 4
    assert decode_reply(EXAMPLES["stale"]).code == "STALE_SESSION"


def test_the_digest_vector_is_in_the_document() -> None:
    """Key and digests of the vector appear as the code computes them."""
    for value in (KEY, DIGESTS[:32], DIGESTS[32:], salted(KEY, "pepper")):
        assert value.hex() in DOCUMENT


NEEDS = {
    Needs.ANY_PEER: "any peer",
    Needs.SESSION: "session",
    Needs.WRITABLE: "writable session",
    Needs.ACTIVE: "ready session",
    Needs.ENDING: "session, fenced ones too",
}


def test_the_ops_are_in_the_document_as_in_the_table() -> None:
    """Body, reply, order and needs of each op are what the document's table says."""

    def shown(body: type) -> str:
        return f"`{body.__name__}`" if dataclasses.fields(body) else "no fields"

    rows = re.findall(r"^\| `(\w+)` \| ([^|]+) \| ([^|]+) \| (yes|no) \| ([^|]+) \|$", DOCUMENT, re.M)

    assert {body for op in OPS.values() for body in (op.body, op.reply)} <= set(BODIES)
    assert {name: tuple(row) for name, *row in rows} == {
        op.name: (
            shown(op.body),
            shown(op.reply) + (", deferred" if op.deferred else ""),
            "yes" if op.ordered else "no",
            NEEDS[op.needs],
        )
        for op in OPS.values()
    }


def test_the_ops_without_order_are_named() -> None:
    """Where the document says how requests are numbered, it names every op that may come in any order."""
    named = re.search(r"^\*\*Unordered ops\*\* \(`([a-z_\s]+)`\)", DOCUMENT, re.M)

    assert named
    assert set(named[1].split()) == {op.name for op in OPS.values() if not op.ordered}


def test_every_code_and_op_is_in_the_document() -> None:
    """Error codes, item codes, ops and the version are those of the code."""
    codes = set(re.findall(r"^\| `([A-Z_]+)` \| (?:yes|no) \|", DOCUMENT, re.M))
    item_codes = dict(re.findall(r"^\| (\d) \| `([A-Z_]+)` \|", DOCUMENT, re.M))
    told = set(re.findall(r"^### `(\w+)`", DOCUMENT, re.M))

    assert codes == set(errors.BY_CODE)
    assert item_codes == {str(getattr(messages, name)): name for name in item_codes.values()}
    assert len(item_codes) == 7
    assert told == set(OPS)
    assert f"Protocol version {envelope.VERSION}" in DOCUMENT


def test_the_link_is_in_the_document_as_in_the_code() -> None:
    """Messages with their senders, times, sizes, ends and error codes of the link are those of its two ends."""
    link = DOCUMENT.partition("## 17.")[2]
    sent = set(re.findall(r"^\| `(\w+)` \| (engine|gateway) \| (?:engine|gateway) \|", link, re.M))
    codes = re.findall(r"^\| `(\w+)` \| [^|]+ \|$", link, re.M)
    finishes = re.search(r"^\| `finish` \|.*", link, re.M)
    kinds = {
        field.default
        for message in get_args(gateway_link.Message)
        for field in dataclasses.fields(message)
        if field.name == "type"
    }

    assert dict(sent).keys() == kinds
    assert {name for name, sender in sent if sender == "engine"} == {"hello", "load", "received", "outputs"}
    unknown = [code for code in codes if engine_error(code, "").code == "internal_error"]
    assert unknown == [KVSTORE_LOST, "internal"], "the first is no end for a client"
    assert {AT_LIMIT, OVER_LIMIT, NO_ROOM, "invalid", "grammar", "too_long", KVSTORE_LOST} == set(codes) - {"internal"}
    assert finishes
    assert set(re.findall(r"`(\w+)`", finishes[0])) == {"finish", "stop", "length", "abort", "error"}
    assert gateway_link.MAX_MESSAGE_BYTES == 64 << 20
    for figure in (
        "at most 64 MiB",
        f"within {HELLO_S:g} seconds",
        f"every {LOAD_PERIOD_S:g} seconds",
        f"{MAX_SILENCE_S:g} seconds",
        f"first after {BACKOFF_S[0]:g} seconds, then up to every second, or {REFUSED_S:g} seconds",
    ):
        assert figure in " ".join(link.split()), figure
    assert BACKOFF_S[1] == 1
