"""An engine whose GPU has no memory left for a step ends with a code and a sentence; answers go on in another."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench.models.tiny import FIRST_WORD, make_model
from tests.e2e.poison import changed
from tests.support.reference import Reference
from tests.support.stack import running_stack
from tests.support.waits import wait_for

# What a full GPU looks like to the engine: the launch of a step raises what torch's allocator does.
FULL_ONCE = """
import os
import torch
right, steps = module.CpuQueue.submit, []

def submit(self, work):
    steps.append(1)
    if len(steps) == 20 and not os.path.exists({marker!r}):
        open({marker!r}, "w").close()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a capacity of 79 GiB")
    return right(self, work)

module.CpuQueue.submit = submit
"""


@pytest.mark.slow
@pytest.mark.process
@pytest.mark.timeout(400)
def test_an_engine_on_a_full_gpu_is_replaced_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 5 within an answer, which goes on in a new process; the supervisor's line says what to change."""
    model = make_model(tmp_path / "model", vocab=256)
    prompt = [FIRST_WORD + i for i in range(40)]
    expected = Reference(model).greedy(prompt, 60)
    change = FULL_ONCE.format(marker=str(tmp_path / "full"))
    for name, value in changed(tmp_path / "change", "quire_engine.model.device_queue", change).items():
        monkeypatch.setenv(name, value)
    with running_stack(tmp_path, model, "--hold-s", "150", engines=1) as stack, ThreadPoolExecutor(1) as pool:
        asked = pool.submit(stack.complete, prompt, max_tokens=60, ignore_eos=True)
        wait_for((tmp_path / "full").exists, "a step finds no memory", 60)
        answer = asked.result()
        wait_for(lambda: stack.stats().blocks["held"] == 0, "nothing is held", 10)

        assert answer["choices"][0]["token_ids"] == expected
        assert stack.stats().blocks["quarantined"] == 0
        said = " ".join((tmp_path / "serve.log").read_text().split())
        assert "engine-1 ended with exit code 5: the GPU's memory is full, 2.50 GiB more are needed" in said
        assert "--kv-gib" in said
