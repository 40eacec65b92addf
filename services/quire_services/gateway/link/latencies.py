"""Latencies: what an engine's answers were like for those who waited for them, since its connection was made.

Measured where outputs arrive, at the price of one observation for each; names and bounds are vLLM's, so that the same
dashboards read both (``exposition``). A continuation that moves to another engine counts there from then on, and what
it waited for in between is a gap between two tokens, as its client sees it.
"""

from __future__ import annotations

import time
from collections import Counter

from quire_proto.wire.histogram import Histogram
from quire_services.gateway.generations import Generation

FIRST_TOKEN_BOUNDS = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
    160.0, 640.0, 2560.0,
)  # fmt: skip
TOKEN_BOUNDS = (
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0, 40.0, 80.0,
)  # fmt: skip
REQUEST_BOUNDS = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0, 480.0, 960.0,
    1920.0, 7680.0,
)  # fmt: skip
FINISHES = ("stop", "length", "abort", "error")


def length_bounds(longest: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to a length in tokens."""
    steps = (step * 10**power for power in range(len(str(longest))) for step in (1.0, 2.0, 5.0))
    return tuple(bound for bound in steps if bound <= longest)


class Latencies:
    """Of one engine. ``longest``: tokens of a sequence.

    Attributes:
        ended: continuations by how they ended.
    """

    def __init__(self, longest: int) -> None:
        self.ended = Counter[str](dict.fromkeys(FINISHES, 0))
        self.first_token = Histogram(FIRST_TOKEN_BOUNDS)
        self.between_tokens, self.mean_between = Histogram(TOKEN_BOUNDS), Histogram(TOKEN_BOUNDS)
        self.whole, self.decode = Histogram(REQUEST_BOUNDS), Histogram(REQUEST_BOUNDS)
        bounds = length_bounds(longest)
        self.prompt_tokens, self.generated_tokens, self.longest_generated = (Histogram(bounds) for _ in range(3))

    def by_name(self) -> dict[str, Histogram]:
        """All histograms, by vLLM's names."""
        return {
            "request_prompt_tokens": self.prompt_tokens,
            "request_generation_tokens": self.generated_tokens,
            "request_max_num_generation_tokens": self.longest_generated,
            "time_to_first_token_seconds": self.first_token,
            "inter_token_latency_seconds": self.between_tokens,
            "request_time_per_output_token_seconds": self.mean_between,
            "e2e_request_latency_seconds": self.whole,
            "request_decode_time_seconds": self.decode,
        }

    def heard(self, generation: Generation, index: int) -> None:
        """Tokens of a continuation have come."""
        now, last = time.monotonic(), generation.heard[index]
        if last:
            self.between_tokens.observe(now - last)
        else:
            self.first_token.observe(now - generation.call.arrived)
            generation.begun[index] = now
        generation.heard[index] = now

    def finished(self, generation: Generation, index: int, finish: str) -> None:
        """A continuation has ended."""
        self.ended[finish if finish in FINISHES else "error"] += 1
        self.whole.observe(time.monotonic() - generation.call.arrived)
        decode_s, generated = generation.heard[index] - generation.begun[index], len(generation.emitted[index])
        self.decode.observe(decode_s)
        if generated > 1:
            self.mean_between.observe(decode_s / (generated - 1))
        self.prompt_tokens.observe(len(generation.tokens))
        self.generated_tokens.observe(generated)
        if not generation.open:
            self.longest_generated.observe(max(map(len, generation.emitted)))
