"""Cases are timed as graphs where they can be captured, and the clock survives those that cannot."""

from __future__ import annotations

import pytest
import torch

from bench.gpu.kernels import clock
from bench.gpu.step import device_is_lost
from quire_engine.kv.attach import ContextPoisoned
from tests.support.cuda_stand_in import NOT_PERMITTED, CudaStandIn

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaStandIn:
    clock._capture.cache_clear()
    return CudaStandIn().install(monkeypatch)


def test_a_case_that_cannot_be_captured_is_launched_and_the_next_one_is_captured(cuda: CudaStandIn) -> None:
    """The reason stands beside the time, and torch is on its own stream again."""

    def looks() -> None:
        cuda.launch(lambda: None)
        if cuda.capturing:
            cuda.wait()

    _, how = clock.captured([looks], DEVICE)
    assert how == f"launch by launch: {NOT_PERMITTED}"
    assert cuda.current.name == "default"

    done: list[int] = []
    replay, how = clock.captured([lambda: cuda.launch(lambda: done.append(1))] * 3, DEVICE)
    replay()
    assert how == "graph"
    assert len(done) == 9  # to warm up, the first replay, and ours


def test_a_device_that_fails_in_a_capture_is_no_case_that_cannot_be_captured(cuda: CudaStandIn) -> None:
    """It ends the table, whose next rows would mean nothing."""

    def faults() -> None:
        if cuda.capturing:
            cuda.failed, cuda.valid = True, False
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(ContextPoisoned) as caught:
        clock.captured([faults], DEVICE)
    assert device_is_lost(caught.value)
