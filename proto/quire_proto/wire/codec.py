"""Codec: frozen dataclasses <-> MessagePack maps, strictly and without I/O.

A body is a map from field name to value. A field that equals its default is left out; a field without a default
must be present; an unknown field, a wrong type, a number out of range or a byte string that is not a whole number
of its elements is an error that names the field. Types come from our own annotations only: nothing on the wire
can name a class. Every failure is a ``CodecError`` with a code of PROTOCOL.md, whatever the bytes were.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

import msgpack

MAX_INT = 2**63 - 1
MAX_STR = 64 * 1024

T = TypeVar("T")
Decoder = Callable[[Any, str], Any]


class CodecError(Exception):
    """Bytes or fields that are not a valid message.

    Attributes:
        code: ``BAD_FRAME`` (not MessagePack, or not the envelope), ``BAD_FIELD`` or ``TOO_LARGE``.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@dataclass(frozen=True, slots=True)
class Whole:
    """Annotation: a byte string made of whole elements of ``size`` bytes."""

    size: int


def decode(data: bytes, max_bytes: int) -> Any:
    """MessagePack bytes as plain values; raises CodecError for anything that is not exactly one value."""
    if len(data) > max_bytes:
        raise CodecError("TOO_LARGE", f"a frame of {len(data)} bytes; the limit is {max_bytes}")
    try:
        return msgpack.unpackb(
            data, raw=False, strict_map_key=True, max_str_len=MAX_STR, max_array_len=1 << 17, max_map_len=1 << 16
        )
    # msgpack documents ValueError and UnpackException subclasses; deep nesting and odd keys raise the others.
    except (ValueError, TypeError, OverflowError, RecursionError, msgpack.UnpackException) as exc:
        raise CodecError("BAD_FRAME", f"not one MessagePack value: {str(exc)[:200]}") from None


def encode(value: Any) -> bytes:
    """Plain values as MessagePack bytes."""
    return typing.cast(bytes, msgpack.packb(value, use_bin_type=True))


def to_map(message: Any) -> dict[str, Any]:
    """A message as a map, defaults left out; a union's tag (its ``type`` field) always stays."""
    out: dict[str, Any] = {}
    cls: Any = type(message)
    for name, default in _shape(cls):
        value = getattr(message, name)
        if name == "type" or value != default:
            out[name] = _plain(value)
    return out


def from_map(cls: type[T], value: Any) -> T:
    """A map as a message of type ``cls``; raises CodecError naming the field that is wrong."""
    target: Any = cls
    return typing.cast(T, _struct(target)(value, ""))


def _plain(value: Any) -> Any:
    if type(value) in _SCALARS:  # as most fields are
        return value
    if is_dataclass(value):
        return to_map(value)
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return value


@cache
def _shape(cls: Any) -> tuple[tuple[str, Any], ...]:
    """(name, default) of each field; a required field has MISSING, which equals no value."""
    return tuple((f.name, _default(f)) for f in fields(cls))


def _default(field: Any) -> Any:
    return field.default_factory() if field.default_factory is not MISSING else field.default


@cache
def _struct(cls: Any) -> Decoder:
    hints = get_type_hints(cls, include_extras=True)
    decoders = {f.name: _decoder(hints[f.name]) for f in fields(cls)}
    required = [f.name for f in fields(cls) if _default(f) is MISSING]

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict):
            raise CodecError("BAD_FIELD", f"{where or 'body'}: expected a map, got {type(value).__name__}")
        given = {}
        for key, item in value.items():
            decoder = decoders.get(key)
            if decoder is None:
                raise CodecError("BAD_FIELD", f"{where or 'body'}: unknown field {str(key)[:80]!r}")
            given[key] = decoder(item, f"{where}.{key}" if where else key)
        for name in required:
            if name not in given:
                raise CodecError("BAD_FIELD", f"{where or 'body'}: field {name!r} is missing")
        try:
            return cls(**given)
        except ValueError as exc:  # a message's own __post_init__ checks
            raise CodecError("BAD_FIELD", f"{where or 'body'}: {exc}") from None

    return read


@cache
def _decoder(hint: Any) -> Decoder:
    if get_origin(hint) is Annotated:
        return _whole(get_args(hint)[1].size)
    if hint in (int, float, str, bytes, bool):
        return _SCALARS[hint]
    origin = get_origin(hint)
    if origin is tuple:
        return _many(get_args(hint)[0])
    if origin is dict:
        return _mapping(get_args(hint)[1])
    if origin in (Union, types.UnionType):
        return _union(get_args(hint))
    return _struct(hint)


def _many(item_hint: Any) -> Decoder:
    item = _decoder(item_hint)

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, list):
            raise CodecError("BAD_FIELD", f"{where}: expected an array, got {type(value).__name__}")
        return tuple(item(v, f"{where}[{i}]") for i, v in enumerate(value))

    return read


def _mapping(item_hint: Any) -> Decoder:
    item = _decoder(item_hint)

    def read(value: Any, where: str) -> Any:
        if not isinstance(value, dict) or not all(isinstance(k, str) for k in value):
            raise CodecError("BAD_FIELD", f"{where}: expected a map with string keys")
        return {k: item(v, f"{where}.{k}") for k, v in value.items()}

    return read


def _union(members: tuple[Any, ...]) -> Decoder:
    """A tagged union: the ``type`` field of each member has a default that is its tag. None is a member too."""
    structs = {_tag(m): _struct(m) for m in members if m is not type(None)}

    def read(value: Any, where: str) -> Any:
        if value is None and type(None) in members:
            return None
        tag = value.get("type") if isinstance(value, dict) else None
        decoder = structs.get(tag) if isinstance(tag, str) else None
        if decoder is None and len(structs) == 1 and None in structs:
            decoder = structs[None]
        if decoder is None:
            raise CodecError("BAD_FIELD", f"{where}: type must be one of {sorted(map(str, structs))}")
        return decoder(value, where)

    return read


def _tag(cls: Any) -> str | None:
    return next((str(f.default) for f in fields(cls) if f.name == "type"), None)


def _whole(size: int) -> Decoder:
    def read(value: Any, where: str) -> bytes:
        data = _bytes(value, where)
        if len(data) % size:
            raise CodecError("BAD_FIELD", f"{where}: {len(data)} bytes are not whole elements of {size}")
        return data

    return read


def _int(value: Any, where: str) -> int:
    if type(value) is not int or not 0 <= value <= MAX_INT:
        raise CodecError("BAD_FIELD", f"{where}: expected an integer 0..2**63-1")
    return value


def _float(value: Any, where: str) -> float:
    if type(value) not in (int, float):
        raise CodecError("BAD_FIELD", f"{where}: expected a number, got {type(value).__name__}")
    return float(value)


def _str(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise CodecError("BAD_FIELD", f"{where}: expected a string, got {type(value).__name__}")
    return value


def _bytes(value: Any, where: str) -> bytes:
    if not isinstance(value, bytes):
        raise CodecError("BAD_FIELD", f"{where}: expected bytes, got {type(value).__name__}")
    return value


def _bool(value: Any, where: str) -> bool:
    if not isinstance(value, bool):
        raise CodecError("BAD_FIELD", f"{where}: expected true or false, got {type(value).__name__}")
    return value


_SCALARS: dict[Any, Decoder] = {int: _int, float: _float, str: _str, bytes: _bytes, bool: _bool}
