"""OpenOffer: a live sequence on its way from one session to another. ``ops/handoff`` makes and ends them."""

from __future__ import annotations

from dataclasses import dataclass

from .session import Session


@dataclass(frozen=True, slots=True, eq=False)
class OpenOffer:
    """An offer that is neither adopted nor over. ``until``: when it expires (ms)."""

    id: bytes
    source: Session
    number: int
    target: Session
    until: int
