"""One prompt with more continuations than there are batch slots: the prompt is computed once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.engine_loop import engine_on, kvstore, words

pytestmark = pytest.mark.process


def test_branches_without_a_slot_find_the_prompt_in_the_cache(tmp_path: Path) -> None:
    """64 of one prompt on 4 slots answer as 64 slots do, and of the prompt they compute the unfull block again."""
    prompt, n = words(16 * 6 + 5), 64
    how = {"max_tokens": 6, "temperature": 1.0, "seed": 9}
    with kvstore(tmp_path, blocks=400) as (run_dir, model_dir):
        computed, answers = {}, {}
        for slots in (4, n):
            with engine_on(run_dir, model_dir, slots=slots, name=f"slots-{slots}") as (engine, front):
                front.ask("many", prompt, n=n, salt=f"{slots}", **how)
                for index in range(n):
                    assert front.end("many", index).finish == "length"
                counters = engine.load().counters
                computed[slots] = counters["computed_tokens"]
                answers[slots] = [front.tokens["many", index] for index in range(n)]
                assert counters["preemptions"] == 0
    assert answers[4] == answers[n]
    assert len({tuple(tokens) for tokens in answers[n]}) > n // 2
    assert computed[n] == len(prompt) + 5 * n
    assert computed[4] == computed[n] + (n - 4) * (len(prompt) % 16)
