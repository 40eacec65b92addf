"""What is known of one HTTP request: for the access log and the counters, never anything of its content."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

from quire_proto.spans import Span


def outcome_of(status: int) -> str:
    """What an answer with this status is counted as."""
    return "ok" if status < 400 else f"{status // 100}xx"


@dataclass(slots=True)
class RequestRecord:
    """One HTTP request. ``outcome`` is empty until something other than the status decides it.

    Attributes:
        arrived: when its head was read, by the monotonic clock.
        request_id: value of the ``x-request-id`` header.
        id_suffix: what makes the answer's ``id`` unique.
        ttft_s: seconds from submission to the first output, None if none came.
        generates: it asked for tokens and was accepted.
        engines: names of the engines that something of it was sent to, in order.
        moves: how often one of its choices has gone on in another engine, or in one that came back.
        recomputed: tokens of prompts and answers that were computed again for that.
        recomputed_handed: those of them that an engine had handed over; 0 unless a hand-over failed.
        span: its own, if it is traced.
    """

    request_id: str
    id_suffix: str
    tenant: str = ""
    status: int = 0
    outcome: str = ""
    error: str = ""
    generates: bool = False
    engines: str = ""
    moves: int = 0
    recomputed: int = 0
    recomputed_handed: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_s: float | None = None
    arrived: float = field(default_factory=time.monotonic)
    span: Span | None = None

    def usage(self) -> dict[str, Any]:
        """The ``usage`` object."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }
