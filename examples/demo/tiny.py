"""The demo without a download: a tiny random model answers, so the words mean nothing, and the numbers are real."""

from __future__ import annotations

import random
from pathlib import Path

from examples.demo.chat import Question, ask, ask_all
from examples.demo.report import Played
from examples.demo.stack import TENANTS, DemoStack, SharedPrompt
from examples.demo.terminal import Live, progress, title

BLOCKS = 512
AGENTS_PER_TENANT = 3
PROMPT_WORDS = 1_000
PRIVATE_WORDS = 90
VOCABULARY = 500
PARAMETERS = {"max_tokens": 24, "temperature": 0, "extra_body": {"ignore_eos": True}}


def words(seed: int, count: int) -> str:
    """``count`` words of the tiny vocabulary, one token each."""
    rng = random.Random(seed)
    return " ".join(f"w{rng.randrange(VOCABULARY)}" for _ in range(count))


PROMPT = SharedPrompt(words(0, PROMPT_WORDS))


def make(folder: Path) -> Path:
    """The model."""
    title("A tiny random model, two engines, one pool")
    progress("making the model")
    from transformers.utils.logging import disable_progress_bar

    from bench.models.tiny import make_model  # imports torch: after the first line is on the screen

    disable_progress_bar()
    return make_model(folder / "tiny", vocab=512, layers=4, hidden=256, heads=8, kv_heads=4, max_len=2048)


def play(stack: DemoStack) -> Played:
    """Send all requests, in the order that the table tells of."""
    title("The first agent brings the published system prompt: it is not computed yet")
    first = ask(stack, _question(TENANTS[0], "0", words(99, PRIVATE_WORDS)))
    print(f"{first.engine} computed {first.computed} prompt tokens, first token after {first.ttft * 1000:.0f} ms")

    title(f"{AGENTS_PER_TENANT} agents of each of {len(TENANTS)} tenants come at once, on both engines")
    agents = [(tenant, str(n)) for tenant in TENANTS for n in range(1, AGENTS_PER_TENANT + 1)]
    questions = [_question(*agent, words(100 + i, PRIVATE_WORDS + 7 * i)) for i, agent in enumerate(agents)]
    later, peak = ask_all(stack, questions)
    print(f"{len(later)} answers; most blocks held at a time: {peak}")

    title("One more, streamed")
    private = words(200, PRIVATE_WORDS)
    streamed = ask(stack, _question(TENANTS[1], "s", private), Live(""))
    print()

    title("The same private prompt again: from its own tenant, then from another one")
    own = ask(stack, _question(TENANTS[1], "s", private))
    foreign = ask(stack, _question(TENANTS[2], "x", private))
    print(f"{own.tenant}: {own.cached} tokens from cache; {foreign.tenant}: {foreign.cached}")
    return Played(first, [*later, streamed], streamed, [], own, foreign, peak, said=[])


def _question(tenant: str, agent: str, private: str) -> Question:
    return Question(tenant, f"{tenant}-{agent}", [{"role": "user", "content": private}], PARAMETERS)
