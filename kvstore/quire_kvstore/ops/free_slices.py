"""Giving up many sequences, long ones among them: in slices (``staging``), each sequence at once."""

from __future__ import annotations

from collections.abc import Iterable

from quire_kvstore.sessions.session import Session
from quire_kvstore.state import State
from quire_proto.messages import Freed
from quire_proto.packed import unpack

from .free import release
from .slices import RELEASED, Pace, Slices


def free(state: State, session: Session, packed_sequences: bytes) -> Slices[Freed]:
    """Give up sequences; one code each."""
    return Freed((yield from release_many(state, session, unpack(packed_sequences), Pace(state))))


def release_many(state: State, session: Session, numbers: Iterable[int], pace: Pace) -> Slices[bytes]:
    """Give up sequences, their claims, or their waits for others'; one item code each."""
    codes = bytearray()
    for number in numbers:
        yield from pace.rest()
        sequence = session.sequences.get(number)
        pace.spend(0 if sequence is None else sequence.references(), RELEASED)
        codes.append(release(state, session, number))
    return bytes(codes)
