"""The codec: every message survives a round trip, and nothing else is accepted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import msgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quire_proto import gateway_link as link
from quire_proto import messages
from quire_proto.messages import handoff
from quire_proto.wire.codec import CodecError, decode, encode, from_map, to_map
from quire_proto.wire.envelope import VERSION, Request, decode_reply, decode_request
from quire_proto.wire.handles import CudaIpcHandle, CudaVmmFdHandle, Handle, ShmHandle
from quire_proto.wire.histogram import Distribution
from quire_proto.wire.layout import Layout

LAYOUT = Layout("m", "ab12", "{}", "", "float32", 16, 2, 1, 8)
BODIES = [
    cls
    for cls in vars(messages).values()
    if dataclasses.is_dataclass(cls) and cls.__module__.startswith(messages.__name__)
]

u63 = st.integers(0, 2**63 - 1)
text = st.text(max_size=20)
handles = st.one_of(
    st.builds(ShmHandle, text, u63, u63),
    st.builds(CudaIpcHandle, st.binary(max_size=64), u63, text, u63, u63, u63),
    st.builds(CudaVmmFdHandle, u63, text, u63, u63, u63),
)


@st.composite
def distributions(draw: st.DrawFn) -> Distribution:
    """What a histogram may have become."""
    bounds = sorted(draw(st.sets(st.floats(0, 1e6), max_size=4)))
    counts = draw(st.lists(u63, min_size=len(bounds) + 1, max_size=len(bounds) + 1))
    return Distribution(tuple(bounds), tuple(counts), draw(st.floats(0, 1e9)))


def field_strategy(hint: object) -> st.SearchStrategy[object]:
    """Values of a field's type that are legal on the wire."""
    name = str(hint)
    whole = {"U32s": 4, "Pairs": 8, "Triples": 12, "Quads": 16, "Digests": 32}.get(name)
    if whole:
        return st.integers(0, 4).flatmap(lambda n: st.binary(min_size=n * whole, max_size=n * whole))
    fixed: dict[str, st.SearchStrategy[object]] = {
        "int": u63,
        "str": text,
        "bytes": st.binary(max_size=40),
        "bool": st.booleans(),
        "Layout": st.just(LAYOUT),
        "Layout | None": st.sampled_from([None, LAYOUT]),
        "Handle": handles,
        "dict[str, int]": st.dictionaries(text, u63, max_size=3),
        "dict[str, Distribution]": st.dictionaries(text, distributions(), max_size=3),
    }
    if name in fixed:
        return fixed[name]
    if not name.startswith("tuple["):
        return message(getattr(messages, name))
    inner = name.removeprefix("tuple[").removesuffix(", ...]")
    cls = getattr(messages, inner, None) or getattr(handoff, inner)
    return st.lists(message(cls), max_size=3).map(tuple)


def message(cls: type) -> st.SearchStrategy[object]:
    """Instances of a message type."""
    made = {f.name: field_strategy(f.type) for f in dataclasses.fields(cls)}
    if "completed_digests" in made:  # a digest for each row
        made["completed_digests"] = st.just(b"")
        made["completed"] = st.just(b"")
        rows = st.integers(0, 4)
        return st.tuples(st.builds(cls, **made), rows).map(
            lambda both: dataclasses.replace(
                both[0], completed=bytes(12 * both[1]), completed_digests=bytes(32 * both[1])
            )
        )
    return st.builds(cls, **made)


def error_of(decode: Callable[..., object], *args: object) -> str:
    """Code of the CodecError that decoding raised, "" for none; any other exception goes through."""
    try:
        decode(*args)
    except CodecError as exc:
        return exc.code
    return ""


@given(st.sampled_from(BODIES).flatmap(message))
@settings(max_examples=200)
def test_every_message_survives_a_round_trip(body: object) -> None:
    """Encoding and decoding gives an equal message of the same type."""
    again = from_map(type(body), decode(encode(to_map(body)), 1 << 20))

    assert again == body


@given(st.binary(max_size=200))
@settings(max_examples=300)
def test_random_bytes_are_a_codec_error_or_a_request(frame: bytes) -> None:
    """Whatever the bytes are, decoding gives a request or a CodecError, nothing else."""
    for decoder in (decode_request, decode_reply):
        assert error_of(decoder, frame) in ("", "BAD_FRAME", "BAD_VERSION")


json_like = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-5, 2**64 - 1), st.floats(), text, st.binary(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(text, inner, max_size=4)),
    max_leaves=8,
)


@given(st.sampled_from(BODIES), st.dictionaries(st.sampled_from(["sequence", "tokens", "blocks", "x"]), json_like))
@settings(max_examples=200)
def test_random_maps_are_a_bad_field_or_a_message(cls: type, value: dict[str, object]) -> None:
    """A map of wrong fields is refused as BAD_FIELD, never by another exception."""
    assert error_of(from_map, cls, value) in ("", "BAD_FIELD")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({"sequence": 1}, "tokens"),
        ({"sequence": 1, "tokens": 2, "colour": 3}, "colour"),
        ({"sequence": "1", "tokens": 2}, "sequence"),
        ({"sequence": True, "tokens": 2}, "sequence"),
        ({"sequence": 1.0, "tokens": 2}, "sequence"),
        ({"sequence": -1, "tokens": 2}, "sequence"),
        ({"sequence": 2**63, "tokens": 2}, "sequence"),
        ([], "body"),
    ],
)
def test_a_wrong_field_is_named(body: object, named: str) -> None:
    """The error names the field that is missing, unknown, of a wrong type, or out of range."""
    with pytest.raises(CodecError, match=named) as caught:
        from_map(messages.Extend, body)

    assert caught.value.code == "BAD_FIELD"


def test_partial_elements_are_refused() -> None:
    """A packed field that is not a whole number of elements is an error."""
    with pytest.raises(CodecError, match="whole elements of 4"):
        from_map(messages.Free, {"sequences": b"\x01\x00\x00"})


def test_a_layout_that_cannot_be_is_a_bad_field() -> None:
    """A message's own checks fail as BAD_FIELD too."""
    wrong = to_map(LAYOUT) | {"dtype": "float12"}

    with pytest.raises(CodecError, match="float12"):
        from_map(messages.Attach, {"nonce": b"n", "layout": wrong})


def test_an_unknown_handle_type_is_refused_by_name() -> None:
    """A handle union accepts its members only and lists them."""
    attached = {"arena": {"type": "hugetlbfs", "size": 1}}

    with pytest.raises(CodecError, match="cuda-vmm-fd"):
        from_map(messages.Attached, attached)


def test_defaults_are_left_out() -> None:
    """An empty step is an empty map: absent and default are the same."""
    assert to_map(messages.Step()) == {}
    assert from_map(messages.Step, {}) == messages.Step()


@pytest.mark.parametrize(
    "frame",
    [
        b"",
        b"\xc1",
        msgpack.packb([VERSION, b"", b"", 1, "stats", 0]),
        msgpack.packb([VERSION, b"short", b"", 1, "stats", 0, {}]),
        msgpack.packb([VERSION, b"", b"", -1, "stats", 0, {}]),
        msgpack.packb([VERSION, b"", b"", 1, b"stats", 0, {}]),
        msgpack.packb([VERSION, b"", b"", 1, "stats", 0, {}]) + b"\x00",
        msgpack.packb({"version": 1}),
        b"\x91" * 2000,
    ],
)
def test_a_malformed_envelope_is_a_bad_frame(frame: bytes) -> None:
    """Wrong arity, types, trailing bytes and deep nesting are BAD_FRAME."""
    with pytest.raises(CodecError) as caught:
        decode_request(frame)

    assert caught.value.code == "BAD_FRAME"


def test_another_version_and_an_oversized_frame_have_codes_of_their_own() -> None:
    """A later version may have another shape: the version is judged first; size before anything is parsed."""
    with pytest.raises(CodecError) as version:
        decode_request(msgpack.packb([VERSION + 1, "whatever"]))
    with pytest.raises(CodecError) as size:
        decode_request(bytes(101), max_bytes=100)

    assert (version.value.code, size.value.code) == ("BAD_VERSION", "TOO_LARGE")


def test_a_request_survives_a_round_trip() -> None:
    """The envelope keeps every element."""
    request = Request(b"b" * 16, b"s" * 16, 7, "extend", 250, {"sequence": 1})

    assert decode_request(request.encode()) == request


def test_link_messages_survive_a_round_trip() -> None:
    """The gateway's link uses the same codec, tagged by type."""
    sent = link.Generate("r", "t", b"\x01\x00\x00\x00", link.Sampling(max_tokens=3, temperature=0.5))
    frame = link.encode_message(sent)

    assert int.from_bytes(frame[:4], "little") == len(frame) - 4
    assert link.decode_message(frame[4:]) == sent


def test_handles_know_their_type() -> None:
    """The tag of a union member is always on the wire."""
    handle: Handle = ShmHandle("quire-x", 4096)

    assert to_map(handle) == {"name": "quire-x", "size": 4096, "type": "shm"}
