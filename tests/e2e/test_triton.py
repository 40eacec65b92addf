"""The whole stack on Triton kernels, in the interpreter: kvstore, two engines, one arena, and transformers' tokens."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.models.tiny import make_model
from tests.e2e.poison import MESSAGE, poisoned
from tests.support.reference import Reference
from tests.support.stack import running_stack, step_log

NEW, VOCAB = 8, 256
SHARED = 40  # tokens, two and a half blocks
LENGTHS = (SHARED + 5, SHARED + 9, 21, 37)  # the first two share a prefix, the last forks inside a block


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("triton") / "model", layers=2, head_dim=64, vocab=VOCAB)


@pytest.mark.process
@pytest.mark.slow
def test_two_engines_on_triton_kernels_give_the_tokens_of_generate(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four prompts, a shared prefix, a fork; in no process may the CPU backend be made, read or written."""
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for name, value in poisoned(tmp_path / "poison").items():
        monkeypatch.setenv(name, value)
    right = Reference(model).prompts(LENGTHS, SHARED, NEW, VOCAB)
    first, *others = ([*prompt] for prompt in right)
    log = tmp_path / "steps-{name}.jsonl"
    with running_stack(tmp_path, model, "--attention", "triton", "--step-log", str(log), engines=2, blocks=64) as stack:

        def ask(prompt: list[int]) -> list[list[int]]:
            n = 2 if len(prompt) == LENGTHS[-1] else 1
            answer = stack.complete(prompt, max_tokens=NEW, ignore_eos=True, n=n)
            return [choice["token_ids"] for choice in answer["choices"]]

        got = [ask(first)]  # its blocks are sealed before the second prompt begins with them
        with ThreadPoolExecutor(3) as pool:
            got += pool.map(ask, others)
        counters = stack.stats().counters
    assert got == [[tokens] * (1 + (len(prompt) == LENGTHS[-1])) for prompt, tokens in right.items()]
    assert counters["hit_tokens"] == SHARED // 16 * 16
    assert (counters["forks"], counters["copies"]) == (1, 1)
    assert all(step_log(tmp_path / f"steps-engine-{i}.jsonl") for i in (1, 2)), "one engine did nothing"
    assert MESSAGE not in (tmp_path / "serve.log").read_text()


@pytest.mark.process
@pytest.mark.slow
def test_the_poison_works(model: Path, tmp_path: Path) -> None:
    """In the same surroundings an engine on the CPU backend ends at once with the poison's complaint."""
    command = [
        sys.executable,
        "-P",
        "-m",
        "quire_services.cli",
        "engine",
        "--model",
        str(model),
        "--attention",
        "cpu",
    ]
    environment = {**os.environ, **poisoned(tmp_path / "poison")}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert ended.returncode == 2  # the self-test fails: the model is refused
    assert MESSAGE in ended.stderr
