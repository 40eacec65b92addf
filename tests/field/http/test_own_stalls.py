"""A process that stood still itself does not take others for dead."""

from __future__ import annotations

import signal
import time
from typing import Any

import pytest

from quire_services.gateway.link.engine import MAX_SILENCE_S
from tests.support.gateway import GatewayProcess


@pytest.mark.slow
@pytest.mark.source("vllm-project/vllm#24910")
def test_engines_are_heard_after_a_stall_of_the_gateway(model: Any) -> None:
    """A gateway that was stopped for longer than engines may be silent serves the first request after it."""
    process = GatewayProcess(model).wait()
    try:
        process.engine().beats = False
        process.process.send_signal(signal.SIGSTOP)
        time.sleep(MAX_SILENCE_S + 1)  # what is waited for is the silence
        process.process.send_signal(signal.SIGCONT)
        answer = process.http.post("/v1/completions", json={"model": "tiny", "prompt": "hi", "max_tokens": 1})
    finally:
        assert process.stop() == 0

    assert answer.status_code == 200
