"""Counters: everything the kvstore counts, in one small object.

Each is a total since the boot and only rises; ``stats`` carries them now and a metrics page can read them later.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass


@dataclass(slots=True)
class Counters:
    """Totals since the boot."""

    messages: int = 0
    bad_frames: int = 0
    errors: int = 0
    internal_errors: int = 0
    resends: int = 0
    unsent_replies: int = 0
    busy_replies: int = 0
    busy_us: int = 0
    steps: int = 0
    allocates: int = 0
    claimed: int = 0
    waits: int = 0
    extends: int = 0
    no_space: int = 0
    prompt_tokens: int = 0
    hit_tokens: int = 0
    publication_tokens: int = 0
    computed_tokens: int = 0
    forks: int = 0
    copies: int = 0
    seals: int = 0
    duplicates: int = 0
    evictions: int = 0
    left_behind: int = 0
    attached: int = 0
    fenced: int = 0
    killed: int = 0
    not_killed: int = 0
    adopted: int = 0
    reclaimed_sessions: int = 0
    reclaimed_references: int = 0

    def as_dict(self) -> dict[str, int]:
        """All counters by name."""
        return asdict(self)
