"""The demo's table and the facts it must show. Nothing here talks to the stack: it judges what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from examples.demo.stack import BLOCK_SIZE, BLOCKS, ENGINES
from quire_kv import Found, Stats


class Paint:
    """Colours, or none where the output is no terminal."""

    def __init__(self, on: bool) -> None:
        self._on = on

    def _in(self, code: str, text: str) -> str:
        return f"\033[{code}m{text}\033[0m" if self._on else text

    def bold(self, text: str) -> str:
        """A heading."""
        return self._in("1", text)

    def dim(self, text: str) -> str:
        """Something in the background."""
        return self._in("2", text)

    def good(self, text: str) -> str:
        """A fact that holds."""
        return self._in("32", text)

    def bad(self, text: str) -> str:
        """A fact that does not."""
        return self._in("1;31", text)


@dataclass(frozen=True)
class Answer:
    """What one request was charged with. Lengths in tokens, ``ttft`` in seconds to the first token."""

    tenant: str
    agent: str
    engine: str
    prompt: int
    cached: int
    output: int
    ttft: float

    @property
    def computed(self) -> int:
        """Prompt tokens that an engine had to compute."""
        return self.prompt - self.cached


@dataclass(frozen=True)
class Measured:
    """Everything the report is made of."""

    first: Answer
    others: list[Answer]
    streamed: Answer
    own: Answer
    foreign: Answer
    peak: int
    stats: Stats
    published: Found
    steps: dict[str, list[dict[str, int]]]

    @property
    def answers(self) -> list[Answer]:
        """All requests, in order."""
        return [self.first, *self.others, self.streamed, self.own, self.foreign]

    @property
    def length(self) -> int:
        """Tokens of the published prompt."""
        return self.published.tokens

    @property
    def blocks(self) -> int:
        """Physical blocks that hold it."""
        return len(self.published.blocks) // 4

    @property
    def waste(self) -> float:
        """Share of the slots in held blocks that hold nothing, averaged over the steps of both engines."""
        steps = [step for log in self.steps.values() for step in log if step["slots_held"]]
        shares = [1 - step["slots_filled"] / step["slots_held"] for step in steps]
        return sum(shares) / len(shares) if shares else 1.0


def facts(m: Measured, left: list[str]) -> list[tuple[bool, str]]:
    """What must hold, each with the sentence that says it."""
    shared_computed = sum(m.length - min(answer.cached, m.length) for answer in m.answers)
    asked = sum(answer.computed for answer in m.answers)
    prefilled = {name: sum(step["prefill_tokens"] for step in log) for name, log in m.steps.items()}
    expected_blocks = -(-m.length // BLOCK_SIZE)
    later = [*m.others, m.streamed]
    tenants = len({answer.tenant for answer in later})
    return [
        (
            shared_computed == m.length and m.first.cached == 0,
            f"the published prompt was computed once: {shared_computed} of {m.length} tokens, by the first request",
        ),
        (
            all(answer.cached == m.length for answer in later),
            f"the {len(later)} agents after it, of {tenants} tenants, had all {m.length} tokens from cache",
        ),
        (
            sum(prefilled.values()) == asked,
            f"the engines' step logs agree: {sum(prefilled.values())} prompt tokens computed, {asked} charged",
        ),
        (
            m.blocks == expected_blocks,
            f"one copy for both engines: {m.blocks} physical blocks = {m.length} tokens / {BLOCK_SIZE}, rounded up",
        ),
        (
            len(prefilled) == ENGINES and all(prefilled.values()),
            "both engines worked: " + ", ".join(f"{name} computed {tokens}" for name, tokens in prefilled.items()),
        ),
        (
            m.own.cached > m.length == m.foreign.cached,
            f"a private prompt is a hit for its tenant only: {m.own.cached - m.length} tokens, "
            f"for another tenant {m.foreign.cached - m.length}",
        ),
        (m.stats.blocks["held"] == m.blocks, "after the last answer only the published prompt's blocks are held"),
        (not left, "nothing was left behind" if not left else f"left behind: {', '.join(left)}"),
    ]


def _row(answer: Answer) -> str:
    return (
        f"  {answer.tenant:<8}{answer.agent:<10}{answer.engine:<10}{answer.prompt:>8}{answer.computed:>10}"
        f"{answer.cached:>12}{answer.output:>8}{answer.ttft * 1000:>9.0f} ms"
    )


def report(m: Measured, left: list[str], paint: Paint) -> bool:
    """Print the table and the facts; True if all hold."""
    heading = f"  {'tenant':<8}{'agent':<10}{'engine':<10}{'prompt':>8}{'computed':>10}{'from cache':>12}"
    print("\n" + paint.bold(heading + f"{'output':>8}{'first token':>12}"))
    for answer in m.answers:
        print(_row(answer))
    prompt, computed = sum(a.prompt for a in m.answers), sum(a.computed for a in m.answers)
    print(
        paint.bold(
            f"  {'all':<28}{prompt:>8}{computed:>10}{prompt - computed:>12}{sum(a.output for a in m.answers):>8}"
        )
    )
    states = m.stats.blocks
    pool = f"{states['held']} held, {states['cached']} cached, {states['free']} free; peak {m.peak} held"
    lines = {
        "prompt tokens from cache": f"{100 * (prompt - computed) / prompt:.1f} % of {prompt}",
        "blocks of the published prompt": f"{m.blocks} ({m.length} tokens) for {len(m.answers)} requests",
        "pool": f"{BLOCKS} blocks: {pool}",
        "waste in held blocks": f"{100 * m.waste:.1f} %, mean over {sum(map(len, m.steps.values()))} steps",
        "time to first token, one request": f"cold {m.first.ttft * 1000:.0f} ms, warm {m.streamed.ttft * 1000:.0f} ms",
    }
    print()
    for name, value in lines.items():
        print(f"  {name:<34}{value}")
    print()
    judged = facts(m, left)
    for holds, sentence in judged:
        print(f"  {paint.good('holds ') if holds else paint.bad('FAILS ')} {sentence}")
    return all(holds for holds, _ in judged)
