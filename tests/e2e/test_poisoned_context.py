"""An engine whose GPU context is poisoned ends with a code of its own; another takes its place and no block is lost."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from bench.models.tiny import FIRST_WORD, make_model
from tests.e2e.poison import changed
from tests.support.reference import Reference
from tests.support.stack import running_stack
from tests.support.waits import wait_for

# What a kernel's failure looks like to the engine: the step is launched, and the wait for it says that all is lost.
FAIL_ONCE = """
import os
right, steps = module.CpuQueue.submit, []

def submit(self, work):
    done = right(self, work)
    steps.append(1)
    if len(steps) == 20 and not os.path.exists({marker!r}):
        open({marker!r}, "w").close()
        raise module.ContextPoisoned("CUDA error: an illegal memory access was encountered")
    return done

module.CpuQueue.submit = submit
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(400)
def test_a_poisoned_engine_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 4 in the middle of an answer: a new process serves, and what the old one held is free again."""
    model = make_model(tmp_path / "model", vocab=256)
    prompt = [FIRST_WORD + i for i in range(40)]
    expected = Reference(model).greedy(prompt, 8)
    change = FAIL_ONCE.format(marker=str(tmp_path / "failed"))
    for name, value in changed(tmp_path / "change", "quire_engine.model.device_queue", change).items():
        monkeypatch.setenv(name, value)
    with running_stack(tmp_path, model, engines=1) as stack, ThreadPoolExecutor(1) as pool:
        before = stack.ready_sessions()
        body = {"model": "m", "prompt": prompt, "max_tokens": 60, "ignore_eos": True}
        asked = pool.submit(httpx.post, f"{stack.url}/v1/completions", json=body, timeout=180, trust_env=False)

        wait_for((tmp_path / "failed").exists, "the context is poisoned", 60)
        wait_for(lambda: (stack.ready_sessions() or before) != before, "another process is the engine", 90)
        stack.wait_ready(1)
        asked.result()
        answer = stack.complete(prompt, max_tokens=8, ignore_eos=True)
        wait_for(lambda: stack.stats().blocks["held"] == 0, "nothing is held", 10)

        assert answer["choices"][0]["token_ids"] == expected
        assert stack.stats().blocks["quarantined"] == 0
        said = (tmp_path / "serve.log").read_text()
        assert "context_poisoned" in said
        assert "engine-1 ended with exit code 4" in said
