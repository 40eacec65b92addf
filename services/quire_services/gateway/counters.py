"""Counters of the gateway, since it started: plain numbers in one place.

Invariant: every answered request is counted once, under one outcome.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field


@dataclass(slots=True)
class Counters:
    """Sums over all requests.

    Attributes:
        outcomes: requests by outcome: ``ok``, ``client_gone``, or the HTTP status class ``4xx`` / ``5xx``.
        ttft_seconds: time to the first output, summed over ``ttft_count`` requests; ``e2e_*`` likewise to the last.
    """

    outcomes: Counter[str] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    ttft_seconds: float = 0.0
    ttft_count: int = 0
    e2e_seconds: float = 0.0
    e2e_count: int = 0

    def finished(self, prompt: int, cached: int, completion: int, ttft_s: float | None, e2e_s: float) -> None:
        """Add a generation request that was answered, in whole or in part. Tokens; seconds."""
        self.prompt_tokens += prompt
        self.cached_tokens += cached
        self.completion_tokens += completion
        if ttft_s is not None:
            self.ttft_seconds += ttft_s
            self.ttft_count += 1
        self.e2e_seconds += e2e_s
        self.e2e_count += 1
