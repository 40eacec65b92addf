"""The only engine dies, and OpenAI's client as it comes survives that."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import openai
import pytest

from bench.models.tiny import make_model
from tests.support.stack import running_stack
from tests.support.waits import wait_for


@pytest.mark.slow
@pytest.mark.process
def test_a_default_client_survives_a_killed_engine(tmp_path: Path) -> None:
    """Kill -9 of the only engine: the answer in the making goes on in the next, a request that comes while there is no
    engine waits, and both are answered, without an error that a program would see."""
    model = make_model(tmp_path / "model", vocab=256)
    long = {"ignore_eos": True, "max_tokens": 1500}
    with running_stack(tmp_path, model, engines=1) as stack, ThreadPoolExecutor(2) as pool:
        client = openai.OpenAI(base_url=f"{stack.url}/v1", api_key="any")

        def ask(**how: object) -> int:
            answer = client.completions.create(model="m", prompt="w1 w2 w3", max_tokens=8, extra_body=how)
            assert answer.usage is not None
            return answer.usage.completion_tokens

        assert ask() > 0
        running = pool.submit(ask, **long)
        wait_for(lambda: stack.stats().blocks["held"] > 0, "the request is running")
        (pid,) = stack.ready_sessions().values()
        os.kill(pid, signal.SIGKILL)
        wait_for(lambda: stack.health() == 503, "the gateway has seen it")
        fresh = pool.submit(ask, ignore_eos=True)
        assert fresh.result(60) == 8
        assert pid not in stack.ready_sessions().values()
        assert running.result(60) == 1500
        assert stack.health() == 200
        client.close()
