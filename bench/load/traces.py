"""Request traces for benches and tests: seeded, with the lengths, turns and sharing of real services.

    python -m bench.load.traces --kind chat --requests 1000 --seed 1 --out chat.jsonl.gz

Two kinds, shaped after published statistics:

- ``chat``: people talk to an assistant. Every prompt begins with the platform's one system block; most conversations
  end after a turn, and the longer one has lasted the likelier it goes on; minutes lie between turns.
- ``agents``: coding agents. Sessions begin with one of a few tool prompts, shared between sessions; dozens of turns
  seconds apart, each adding a tool result; a context that nears the limit is compacted to its tool prompt and a
  summary.

Blocks are drawn as *segments*: a context is a stack of them, pushed as it grows, cut back when it is compacted, and
never changed inside. That gives the prefix tree by construction. A segment gets its ids when it is first referenced
in time order. ``chat`` counts a last partial block (under an id of its own), ``agents`` counts full blocks only.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

from .trace_format import Request, infinite_cache, write


class Segment:
    """A run of consecutive blocks that only ever appears whole and behind the same predecessor."""

    __slots__ = ("count", "first")

    def __init__(self, count: int) -> None:
        self.count = count
        self.first = -1


@dataclass(frozen=True, slots=True)
class Turn:
    """A request before its blocks have ids."""

    ts: float
    prompt: int
    output: int
    session: int
    segments: tuple[Segment, ...]


def lognormal(rng: Random, median: float, sigma: float, low: float, high: float) -> int:
    """A log-normal length, redrawn until it lies within bounds."""
    while True:
        value = rng.lognormvariate(math.log(median), sigma)
        if low <= value <= high:
            return int(value)


class Context:
    """The prompt of a session as it grows, in tokens and segments."""

    def __init__(self, base: Segment, block_tokens: int, partial: bool) -> None:
        self._stack = [base]
        self._block_tokens = block_tokens
        self._partial = partial
        self.tokens = base.count * block_tokens

    def grow(self, tokens: int) -> None:
        """Append ``tokens``; blocks that become full become a new segment."""
        self.tokens += tokens
        full = self.tokens // self._block_tokens - sum(segment.count for segment in self._stack)
        if full > 0:
            self._stack.append(Segment(full))

    def compact(self, tokens: int) -> None:
        """Cut back to the base and append a summary of ``tokens``."""
        del self._stack[1:]
        self.tokens = self._stack[0].count * self._block_tokens
        self.grow(tokens)

    def segments(self) -> tuple[Segment, ...]:
        """What a request refers to now; a partial last block is never referred to again."""
        tail = [Segment(1)] if self._partial and self.tokens % self._block_tokens else []
        return (*self._stack, *tail)


# --- chat ------------------------------------------------------------------------------------------------------

CHAT_BLOCK = 512
CHAT_RATE = 3.2  # requests a second
CHAT_GOES_ON = (0.26, 0.37, 0.47, 0.52, 0.60)  # chance of another turn after the 1st, 2nd, ...


def chat(rng: Random, requests: int) -> Iterator[list[Turn]]:
    """Conversations, one list of turns each, without end."""
    system = Segment(1)
    span = requests / CHAT_RATE
    session = 0
    while True:
        context = Context(system, CHAT_BLOCK, partial=True)
        context.grow(lognormal(rng, 6_300, 1.18, 300, 122_000))
        ts = rng.uniform(0, span)
        turns: list[Turn] = []
        while True:
            output = _chat_output(rng)
            turns.append(Turn(ts, context.tokens, output, session, context.segments()))
            if rng.random() > CHAT_GOES_ON[min(len(turns), len(CHAT_GOES_ON)) - 1]:
                break
            ts += lognormal(rng, 120_000, 0.8, 10_000, 1_000_000) / 1000
            context.grow(output + lognormal(rng, 160, 1.7, 5, 20_000))
        yield turns
        session += 1


def _chat_output(rng: Random) -> int:
    if rng.random() < 0.16:  # a word, a title, a refusal
        return lognormal(rng, 14, 0.9, 1, 100)
    return (
        max(20, min(2_000, int(rng.gauss(380, 165)))) if rng.random() < 0.94 else lognormal(rng, 850, 0.4, 300, 2_000)
    )


# --- agents ----------------------------------------------------------------------------------------------------

AGENT_BLOCK = 64
AGENT_LIMIT = 167_000  # tokens of context before it is compacted
AGENT_SESSION_EVERY = 160.0  # seconds between two starts, on the mean
AGENT_TURNS = 52  # mean
AGENT_TOOL_PROMPTS = 6


def agents(rng: Random, requests: int) -> Iterator[list[Turn]]:
    """Coding sessions, one list of turns each, without end."""
    tools = [Segment(lognormal(rng, 15_000, 0.25, 9_000, 25_000) // AGENT_BLOCK) for _ in range(AGENT_TOOL_PROMPTS)]
    weights = [1 / rank for rank in range(1, len(tools) + 1)]
    span = max(1.0, requests / AGENT_TURNS) * AGENT_SESSION_EVERY
    session = 0
    while True:
        context = Context(rng.choices(tools, weights)[0], AGENT_BLOCK, partial=False)
        context.grow(lognormal(rng, 5_000, 0.9, 300, 40_000) if rng.random() < 0.55 else rng.randint(40_000, 110_000))
        ts = rng.uniform(0, span)
        turns: list[Turn] = []
        for _ in range(lognormal(rng, 42, 0.85, 3, 170)):
            output = lognormal(rng, 212, 1.17, 20, 9_000)
            turns.append(Turn(ts, context.tokens, output, session, context.segments()))
            ts += lognormal(rng, 15_000, 1.2, 500, 3_600_000) / 1000
            context.grow(output + lognormal(rng, 420, 1.55, 20, 30_000))
            if context.tokens > AGENT_LIMIT:
                context.compact(lognormal(rng, 45_000, 0.5, 10_000, 100_000))
        yield turns
        session += 1


# --- traces ----------------------------------------------------------------------------------------------------

KINDS: dict[str, tuple[Callable[[Random, int], Iterator[list[Turn]]], int]] = {
    "chat": (chat, CHAT_BLOCK),
    "agents": (agents, AGENT_BLOCK),
}


def generate(kind: str, requests: int, seed: int) -> list[Request]:
    """Exactly ``requests`` requests in time order; the same arguments give the same trace."""
    family, _ = KINDS[kind]
    rng = Random(f"{kind}/{seed}")
    turns: list[Turn] = []
    for session in family(rng, requests):
        turns += session[: requests - len(turns)]
        if len(turns) == requests:
            break
    turns.sort(key=lambda turn: turn.ts)
    start, next_id = turns[0].ts, 0
    result = []
    for turn in turns:
        for segment in turn.segments:
            if segment.first < 0:
                segment.first, next_id = next_id, next_id + segment.count
        ts = round(turn.ts - start, 3)
        result.append(Request(ts, turn.prompt, turn.output, turn.session, _runs(turn.segments)))
    return result


def _runs(segments: tuple[Segment, ...]) -> tuple[tuple[int, int], ...]:
    runs: list[tuple[int, int]] = []
    for segment in segments:
        if runs and sum(runs[-1]) == segment.first:
            runs[-1] = (runs[-1][0], runs[-1][1] + segment.count)
        else:
            runs.append((segment.first, segment.count))
    return tuple(runs)


def main() -> int:
    """Entry of ``python -m bench.load.traces``."""
    parser = argparse.ArgumentParser(prog="bench.load.traces", description="Generate a request trace.")
    parser.add_argument("--kind", choices=sorted(KINDS), required=True)
    parser.add_argument("--requests", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, required=True, help="file to write, *.jsonl.gz")
    arguments = parser.parse_args()
    if arguments.requests < 1:
        parser.error("--requests must be at least 1")
    requests = generate(arguments.kind, arguments.requests, arguments.seed)
    write(
        arguments.out,
        requests,
        trace=arguments.kind,
        part=f"seed-{arguments.seed}",
        block_tokens=KINDS[arguments.kind][1],
        desc=f"generated: {arguments.kind}, {arguments.requests} requests, seed {arguments.seed}",
    )
    references, unique, hit = infinite_cache(requests)
    print(f"{arguments.out}: {len(requests)} requests, {references} block references, {unique} blocks, hit {hit:.3f}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
