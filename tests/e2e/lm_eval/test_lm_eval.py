"""lm-eval, as its users run it, finds the likelihoods that transformers finds.

It runs in an environment of its own, `.clients/lm_eval`, made of what `requirements.txt` here pins when a test first
asks for it; `uv pip compile --universal --no-header --no-annotate --upgrade` of `requirements.in` pins anew.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from bench.models.tiny import FIRST_WORD, make_model
from tests.support.reference import Reference
from tests.support.repository import ROOT, script
from tests.support.stack import running_stack

HERE = Path(__file__).parent
MADE = ROOT / ".clients" / "lm_eval"
UV = [str(Path(sysconfig.get_path("scripts"), "uv")), "--no-config", "--no-python-downloads", "--quiet"]
VOCAB = 256
DOCUMENTS, CHOICES = 12, 4

pytestmark = [pytest.mark.process, pytest.mark.slow, pytest.mark.timeout(480)]


@pytest.fixture(scope="module")
def program() -> Path:
    """lm-eval, in its environment."""
    pins, ready = HERE / "requirements.txt", MADE / "ready"
    if not ready.exists() or ready.read_text() != pins.read_text():
        sync = ["pip", "sync", "--python", str(MADE), str(pins)]  # one that it needs, rouge-score, has no wheel
        for command in (["venv", "--clear", "--python", sys.executable, str(MADE)], sync):
            ran = subprocess.run(
                [*UV, *command], env=script("check_pins").way(), capture_output=True, text=True, check=False
            )
            if ran.returncode and not os.environ.get("CI"):
                pytest.skip(f"no environment: {ran.stderr[-500:]}")
            assert ran.returncode == 0, ran.stderr[-4000:]
        ready.write_text(pins.read_text())
    return MADE / "bin" / "lm_eval"


def documents(reference: Reference) -> list[dict[str, Any]]:
    """Questions of words that mean nothing, each twice: what is cached counts as much. The model's own answer to each
    is among the choices."""
    rng = random.Random(5)

    def words(most: int) -> str:
        return " ".join(f"w{rng.randrange(VOCAB - FIRST_WORD)}" for _ in range(rng.randrange(1, most)))

    def answer(question: str) -> str:
        tokens = reference.greedy([FIRST_WORD + int(word[1:]) for word in question.split()], 3, margin=0)
        return " ".join(f"w{max(0, token - FIRST_WORD)}" for token in tokens)

    questions = [words(200) for _ in range(DOCUMENTS // 2)] * 2
    return [
        {"question": question, "choices": [answer(question), *(words(8) for _ in range(CHOICES - 1))], "answer": 1}
        for question in questions
    ]


def samples(out: Path, task: str) -> Iterator[tuple[list[str], list[Any]]]:
    """What lm-eval asked for and what it was answered, request by request."""
    (file,) = out.rglob(f"samples_{task}_*.jsonl")
    for line in file.read_text().splitlines():
        sample = json.loads(line)
        for place, answered in enumerate(sample["filtered_resps"]):
            asked = sample["arguments"][f"gen_args_{place}"]
            yield list(asked.values()), answered if isinstance(answered, list) else [answered]


@torch.inference_mode()
def likelihood(reference: Reference, context: list[int], continuation: list[int]) -> tuple[float, bool]:
    """The log-likelihood of a continuation, and whether each of its tokens is the most likely one."""
    ids = context + continuation
    logprobs = torch.log_softmax(reference.model(torch.tensor([ids])).logits[0, :-1].double(), dim=-1)
    rows = logprobs[len(context) - 1 :]
    tokens = torch.tensor(continuation)
    return float(rows.gather(1, tokens.unsqueeze(1)).sum()), bool((rows.argmax(dim=-1) == tokens).all())


@pytest.mark.parametrize("backend", ["huggingface", "remote"])
def test_its_likelihoods_are_those_of_transformers(program: Path, tmp_path: Path, backend: str) -> None:
    """``local-completions`` on a task of choices and on one of whole texts: every log-likelihood to 1e-3, and whether
    it is the greedy answer; with a tokenizer of its own, or with the gateway's, which it finds by itself."""
    model = make_model(tmp_path / "model", vocab=VOCAB)
    reference = Reference(model)
    (tmp_path / "documents.jsonl").write_text("".join(json.dumps(one) + "\n" for one in documents(reference)))
    out = tmp_path / "out"
    with running_stack(tmp_path, model) as stack:
        how = {"model": "m", "base_url": f"{stack.url}/v1/completions", "num_concurrent": "4"}
        if backend == "huggingface":
            how |= {"tokenizer_backend": backend, "tokenizer": str(model)}
        ran = subprocess.run(
            [
                program, "run", "--model", "local-completions",
                "--model_args", ",".join(f"{key}={value}" for key, value in how.items()),
                "--tasks", "choices,texts", "--include_path", HERE, "--batch_size", "4",
                "--log_samples", "--output_path", out,
            ],
            cwd=tmp_path, env={"HOME": str(tmp_path), "HF_HUB_OFFLINE": "1", "PATH": "/usr/bin:/bin"},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
    assert ran.returncode == 0, ran.stderr[-4000:]
    assert ("remote tokenizer" in ran.stderr) == (backend == "remote")
    print(ran.stdout, file=sys.stderr)
    tokenizer = AutoTokenizer.from_pretrained(model)
    furthest, greedy = 0.0, 0
    asked = list(samples(out, "choices"))
    assert len(asked) == DOCUMENTS * CHOICES
    for (context, continuation), (said, is_greedy) in asked:
        expected, best = likelihood(reference, tokenizer.encode(context), tokenizer.encode(continuation))
        furthest = max(furthest, abs(float(said) - expected))
        assert is_greedy == str(best)
        greedy += best
    texts = list(samples(out, "texts"))
    assert len(texts) == DOCUMENTS
    for (text,), (said,) in texts:
        expected, _ = likelihood(reference, [tokenizer.bos_token_id], tokenizer.encode(text))
        furthest = max(furthest, abs(float(said) - expected))
    print(f"\n{len(asked) + len(texts)} log-likelihoods, at most {furthest:.1e} off; {greedy} greedy")
    assert furthest < 1e-3
    assert greedy >= DOCUMENTS // 2
