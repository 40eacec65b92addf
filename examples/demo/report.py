"""The demo's table and the facts it must show. Nothing here talks to the stack: it judges what was measured."""

from __future__ import annotations

from dataclasses import dataclass

from examples.demo.chat import Answer
from examples.demo.stack import BLOCK_SIZE, ENGINES
from examples.demo.terminal import bad, bold, good
from quire_kv import Found, Stats


@dataclass(frozen=True)
class Played:
    """What the agents sent and got.

    Attributes:
        first: the agent that found nothing in the cache.
        later: agents after it, each with the published prompt and new words of its own.
        streamed: one of these, which came alone.
        follow_ups: agents that went on with a conversation of theirs.
        own, foreign: the streamed one's prompt again, from its own tenant and from another one.
        peak: most blocks that were held at a time.
        said: facts about what was said, each with its sentence.
    """

    first: Answer
    later: list[Answer]
    streamed: Answer
    follow_ups: list[Answer]
    own: Answer
    foreign: Answer
    peak: int
    said: list[tuple[bool, str]]

    @property
    def answers(self) -> list[Answer]:
        """All of them, in order."""
        return [self.first, *self.later, *self.follow_ups, self.own, self.foreign]


@dataclass(frozen=True)
class Measured:
    """What the kvstore and the engines counted meanwhile."""

    blocks: int
    stats: Stats
    published: Found
    steps: dict[str, list[dict[str, int]]]

    @property
    def length(self) -> int:
        """Tokens of the published prompt."""
        return self.published.tokens

    @property
    def copies(self) -> int:
        """Physical blocks that hold it."""
        return len(self.published.blocks) // 4

    @property
    def waste(self) -> float:
        """Share of the slots in held blocks that hold nothing, averaged over the steps of both engines."""
        steps = [step for log in self.steps.values() for step in log if step["slots_held"]]
        shares = [1 - step["slots_filled"] / step["slots_held"] for step in steps]
        return sum(shares) / len(shares) if shares else 1.0


def facts(played: Played, m: Measured, left: list[str]) -> list[tuple[bool, str]]:
    """What must hold, each with the sentence that says it."""
    shared_computed = sum(m.length - min(answer.cached, m.length) for answer in played.answers)
    asked = sum(answer.computed for answer in played.answers)
    prefilled = {name: sum(step["prompt_tokens"] for step in log) for name, log in m.steps.items()}
    expected_blocks = -(-m.length // BLOCK_SIZE)
    tenants = len({answer.tenant for answer in played.later})
    return [
        *played.said,
        (
            shared_computed == m.length and played.first.cached == 0,
            f"the published prompt was computed once: {shared_computed} of {m.length} tokens, by the first request",
        ),
        (
            all(answer.cached == m.length for answer in played.later),
            f"the {len(played.later)} agents after it, of {tenants} tenants, had all {m.length} tokens from cache",
        ),
        (
            sum(prefilled.values()) == asked,
            f"the engines' step logs agree: {sum(prefilled.values())} prompt tokens computed, {asked} charged",
        ),
        (
            m.copies == expected_blocks,
            f"one copy for both engines: {m.copies} physical blocks = {m.length} tokens / {BLOCK_SIZE}, rounded up",
        ),
        (
            len(prefilled) == ENGINES and all(prefilled.values()),
            "both engines worked: " + ", ".join(f"{name} computed {tokens}" for name, tokens in prefilled.items()),
        ),
        (
            played.own.cached > m.length == played.foreign.cached,
            f"a private prompt is a hit for its tenant only: {played.own.cached - m.length} tokens, "
            f"for another tenant {played.foreign.cached - m.length}",
        ),
        *(
            (answer.cached > m.length, f"a conversation that goes on finds its beginning: {answer.cached} tokens")
            for answer in played.follow_ups
        ),
        (m.stats.blocks["held"] == m.copies, "after the last answer only the published prompt's blocks are held"),
        (not left, "nothing was left behind" if not left else f"left behind: {', '.join(left)}"),
    ]


def _row(answer: Answer) -> str:
    return (
        f"  {answer.tenant:<8}{answer.agent:<10}{answer.engine:<10}{answer.prompt:>8}{answer.computed:>10}"
        f"{answer.cached:>12}{answer.output:>8}{answer.ttft * 1000:>9.0f} ms"
    )


def report(played: Played, m: Measured, left: list[str]) -> bool:
    """Print the table and the facts; True if all hold."""
    heading = f"  {'tenant':<8}{'agent':<10}{'engine':<10}{'prompt':>8}{'computed':>10}{'from cache':>12}"
    print("\n" + bold(heading + f"{'output':>8}{'first token':>12}"))
    for answer in played.answers:
        print(_row(answer))
    prompt, computed = sum(a.prompt for a in played.answers), sum(a.computed for a in played.answers)
    print(
        bold(f"  {'all':<28}{prompt:>8}{computed:>10}{prompt - computed:>12}{sum(a.output for a in played.answers):>8}")
    )
    states, cold, warm = m.stats.blocks, played.first.ttft, played.streamed.ttft
    pool = f"{states['held']} held, {states['cached']} cached, {states['free']} free; peak {played.peak} held"
    lines = {
        "prompt tokens from cache": f"{100 * (prompt - computed) / prompt:.1f} % of {prompt}",
        "blocks of the published prompt": f"{m.copies} ({m.length} tokens) for {len(played.answers)} requests",
        "pool": f"{m.blocks} blocks: {pool}",
        "waste in held blocks": f"{100 * m.waste:.1f} %, mean over {sum(map(len, m.steps.values()))} steps",
        "time to first token, one request": f"cold {cold * 1000:.0f} ms, warm {warm * 1000:.0f} ms",
    }
    print()
    for name, value in lines.items():
        print(f"  {name:<34}{value}")
    print()
    judged = facts(played, m, left)
    for holds, sentence in judged:
        print(f"  {good('holds ') if holds else bad('FAILS ')} {sentence}")
    return all(holds for holds, _ in judged)
