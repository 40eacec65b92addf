"""Tokens in few bits are judged by how close transformers comes to itself, and a wrong one is found."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from bench.gpu.processes import tokens
from bench.gpu.processes.link import EngineAnswer
from bench.gpu.processes.tokens import Judge, judged
from bench.models.tiny import make_model
from quire_engine.checkpoint.kv_scales import KvScales
from tests.support.rounded_cache import RoundedCache

VOCAB, TOKENS = 256, 6


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama."""
    return make_model(tmp_path_factory.mktemp("model"), head_dim=64, vocab=VOCAB)


def answers(judge: Judge, rounded: bool) -> list[EngineAnswer]:
    """What transformers in bfloat16 itself answers, token by token, over the same kind of cache."""
    found = []
    draw = random.Random(2)
    for length in (3, 30):
        prompt = [draw.randrange(7, VOCAB) for _ in range(length)]
        cache: dict[str, Any] = {"past_key_values": RoundedCache(KvScales.ones(2, 2))} if rounded else {}
        out = judge._narrow.generate(
            torch.tensor([prompt]), max_new_tokens=TOKENS, do_sample=False, eos_token_id=None, pad_token_id=0, **cache
        )
        found.append(EngineAnswer("request", "engine-1", tuple(prompt), out[0, length:].tolist()))
    return found


@pytest.mark.parametrize("rounded", [False, True])
def test_right_tokens_pass_and_one_wrong_token_does_not(model: Path, rounded: bool) -> None:
    """Another library's rounding is let through, and a token that the model would not choose is not."""
    judge = Judge(model, torch.device("cpu"), rounded)
    right = answers(judge, rounded)

    found = judged(judge, right)
    assert found["transformers_best"] + found["within_rounding"] == found["tokens"] == 2 * TOKENS

    right[1].tokens[-1] = 3 if right[1].tokens[-1] != 3 else 4  # a special token, which hardly ever wins
    with pytest.raises(RuntimeError, match="1 of 12 tokens are not transformers'"):
        judged(judge, right)


def test_where_rounding_hides_everything_nothing_is_shown(model: Path) -> None:
    """A bound as wide as what tells tokens apart is refused, whatever the tokens are."""
    judge = Judge(model, torch.device("cpu"), rounded=False)
    right = answers(judge, rounded=False)
    judge.error = 100.0

    with pytest.raises(RuntimeError, match="shows nothing"):
        judged(judge, right)


@pytest.mark.parametrize(("reports", "right"), [((0, 0, 7), True), ((0, 0, 0), False)])
def test_replays_are_counted_by_the_engine(
    reports: tuple[int, ...], right: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A report that comes later counts, and an engine that never replayed has shown nothing."""
    monkeypatch.setattr(tokens, "REPORT_S", 0.2)
    said: Iterator[int] = iter(reports)
    last = {"steps": 9, "replayed_steps": 0}

    def counters(_: str) -> dict[str, int]:
        last["replayed_steps"] = next(said, last["replayed_steps"])
        return dict(last)

    stack: Any = SimpleNamespace(gateway=SimpleNamespace(counters=counters))
    if right:
        assert tokens.replays(stack)["replayed_steps"] == 7
        return
    with pytest.raises(RuntimeError, match="replayed no step"):
        tokens.replays(stack)
