"""Item codes as errors: what a call about one item raises, where a ``step`` returns the code as a result.

A single call that returned a reply whose code must be looked at would be taken for done where it is not.
Nothing changed in the store when one of these is raised, and the session goes on. Their ``code`` is the item code's
name.
"""

from __future__ import annotations

from typing import Protocol, TypeVar

from quire_proto.messages import CLAIMED, CONFLICT, NO_SPACE, NO_SUCH, OK, RETRY, UNPUBLISHED, Allocated, Extended
from quire_proto.messages.codes import ITEM_CODES
from quire_proto.op_table import Op
from quire_proto.wire import errors
from quire_proto.wire.u32 import unpack_u32

_PLAIN: dict[int, tuple[type[errors.RemoteError], str]] = {
    NO_SUCH: (errors.NotFound, "there is no such sequence or copy"),
    CONFLICT: (errors.Conflict, "it contradicts the state of the store; nothing changed"),
    UNPUBLISHED: (errors.Unpublished, "the block before the first is not in the index: seal from there"),
    RETRY: (errors.Retry, "the publication, or the list it was looked for in, is not the present one: match again"),
}


class Result(Protocol):
    """A reply with an item code."""

    @property
    def code(self) -> int:
        """One of ``ITEM_CODES``."""


A = TypeVar("A", bound=Result)


def done(op: Op[A], reply: A) -> A:
    """The reply of a call about one item, which was done; else raise its code."""
    if reply.code != OK:
        raise _error(op.name, reply.code, reply)
    return reply


def each_done(what: str, numbers: bytes, codes: bytes) -> None:
    """Raise the first code that is not OK, naming those of the (packed) ``numbers`` which it is about."""
    named = unpack_u32(numbers)
    if len(named) != len(codes):
        raise errors.Internal("INTERNAL", f"the reply to {what} has not one result an item")
    failed = [(number, code) for number, code in zip(named, codes, strict=True) if code != OK]
    if failed:
        first = failed[0][1]
        alike = [number for number, code in failed if code == first]
        raise _error(f"{what} {_listed(alike)}", first, None, {"numbers": alike})


def _error(what: str, code: int, reply: object, detail: dict[str, object] | None = None) -> errors.RemoteError:
    if code == NO_SPACE:
        short = reply if isinstance(reply, Allocated | Extended) else Extended(NO_SPACE)
        return errors.NoSpace(what, short.missing, short.scope, short.account, short.retry_after_ms)
    if code == CLAIMED and isinstance(reply, Allocated):
        return errors.Claimed(what, reply.computed, reply.claimed)
    kind, meaning = _PLAIN.get(code, (errors.RemoteError, "an unknown item code"))
    return kind(ITEM_CODES.get(code, str(code)), f"{what}: {meaning}", detail)


def _listed(numbers: list[int]) -> str:
    shown = ", ".join(map(str, numbers[:8]))
    return f"{shown}, ... ({len(numbers)} in all)" if len(numbers) > 8 else shown
