"""Body of ``events``: where the event stream is (PROTOCOL.md section 16)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Events:
    """Reply to ``events``: where the event stream is, and what it tells (PROTOCOL.md section 16)."""

    endpoint: str
    replay: str
    topic: str
    tokens: str
    hashes: str
