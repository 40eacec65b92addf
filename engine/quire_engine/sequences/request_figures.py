"""RequestFigures: what an engine counts and times of its clients' requests, for its gateway's metrics.

A request waits from its arrival until it is first admitted, and its prompt is computed from then to its first token;
each is measured once, whatever preempts it later. What the kvstore found of its prompt is counted at the admission.
"""

from __future__ import annotations

import time

from quire_proto.wire.histogram import Distribution, Histogram

from .sequence import Request, Sequence

COUNTED_OF_REQUESTS = ("queried_tokens", "hit_tokens")
# Those of vLLM's histograms of a request's phases, so that the same dashboards read both.
PHASE_BOUNDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip


class RequestFigures:
    """Figures of one engine since it started. ``counters``: where it counts."""

    def __init__(self, counters: dict[str, int]) -> None:
        self._counters = counters
        self._counters.update(dict.fromkeys(COUNTED_OF_REQUESTS, 0))
        self._queue, self._prefill = Histogram(PHASE_BOUNDS), Histogram(PHASE_BOUNDS)

    def admitted(self, sequence: Sequence) -> None:
        """A sequence stands for a request that has its first blocks now."""
        request, counters = sequence.request, self._counters
        request.admitted = time.monotonic()
        if not request.id:
            return  # a publication, for which no client waits
        self._queue.observe(request.admitted - request.arrived)
        counters["queried_tokens"] += len(request.prompt) // 4
        counters["hit_tokens"] += min(request.cached_tokens, len(request.prompt) // 4)

    def first_token(self, request: Request) -> None:
        """A request's first token was drawn here."""
        if request.trace is not None:
            request.trace.first_token()
        if request.id:
            self._prefill.observe(time.monotonic() - request.admitted)

    def times(self) -> dict[str, Distribution]:
        """Seconds that requests took, by phase."""
        return {"queue": self._queue.distribution(), "prefill": self._prefill.distribution()}
