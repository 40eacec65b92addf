"""Counters of the gateway, since it started: plain numbers in one place.

Invariant: every answered request is counted once, under one outcome.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from quire_services.gateway.http.request_log import RequestRecord

APIS = {
    "/v1/chat/completions": "chat",
    "/v1/completions": "completions",
    "/v1/messages": "messages",
    "/v1/responses": "responses",
}
OTHER = "other"  # whatever strangers ask for, too


@dataclass(slots=True)
class Counters:
    """Sums over all requests.

    Attributes:
        requests: by API, HTTP status and outcome: ``ok``, ``client_gone``, or the status class ``4xx`` / ``5xx``, which
            an answer that breaks off has in spite of its status.
    """

    requests: Counter[tuple[str, int, str]] = field(default_factory=Counter)
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    recomputed_tokens: int = 0

    def answered(self, path: str, status: int, outcome: str) -> None:
        """Count a request."""
        self.requests[APIS.get(path, OTHER), status, outcome] += 1

    def generated(self, record: RequestRecord) -> None:
        """Add the tokens of a generation request that was answered, in whole or in part."""
        self.prompt_tokens += record.prompt_tokens
        self.cached_tokens += record.cached_tokens
        self.completion_tokens += record.completion_tokens
        self.recomputed_tokens += record.recomputed
