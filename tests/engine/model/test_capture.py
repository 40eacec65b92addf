"""Captures over a stand-in of ``torch.cuda`` that can fail: what is shared, and what a failure leaves behind."""

from __future__ import annotations

import pytest
import torch

from quire_engine.kv.attach import ContextPoisoned
from quire_engine.model.graphs import CaptureRefused, CudaCapture
from tests.support.cuda_stand_in import NOT_PERMITTED, CudaStandIn

DEVICE = torch.device("cuda", 0)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> CudaStandIn:
    return CudaStandIn().install(monkeypatch)


def as_before(cuda: CudaStandIn) -> bool:
    """Whether torch is on its own stream, captures nothing, and fills no pool."""
    return (cuda.current.name, cuda.capturing, cuda.recording) == ("default", None, [])


def test_a_replay_repeats_what_was_launched(cuda: CudaStandIn) -> None:
    """Once to warm up, not at all while it is captured, and once with each replay."""
    done: list[str] = []
    replay = CudaCapture(DEVICE)(lambda: cuda.launch(lambda: done.append(cuda.current.name)))
    assert done == ["side 0"]
    replay()
    replay()
    assert done == ["side 0", "default", "default"]
    assert as_before(cuda)


def test_all_captures_share_a_stream_and_a_pool(cuda: CudaStandIn) -> None:
    """The allocator gives a block to the same stream only, so graphs on several would share no memory."""
    capture = CudaCapture(DEVICE)
    for _ in range(3):
        capture(lambda: cuda.launch(lambda: None))
    assert len(cuda.captured) == 3
    assert len(set(cuda.captured)) == 1
    assert len(cuda.streams) == 1


def test_the_warm_up_waits_for_what_is_queued_and_is_waited_for(cuda: CudaStandIn) -> None:
    """The launches before a capture may read what was copied on the current stream."""
    default = cuda.current
    CudaCapture(DEVICE)(lambda: cuda.launch(lambda: None))
    (side,) = cuda.streams
    assert side.waits_for == [default]
    assert default.waits_for == [side]


def test_a_failed_capture_leaves_stream_and_allocator_as_they_were(cuda: CudaStandIn) -> None:
    """What is launched next runs where it should, the first error is the reason, and the next capture succeeds."""

    def looks() -> None:
        cuda.launch(lambda: None)
        if cuda.capturing:
            cuda.wait()

    capture = CudaCapture(DEVICE)
    with pytest.raises(CaptureRefused, match=NOT_PERMITTED):
        capture(looks)
    assert as_before(cuda)
    done: list[int] = []
    capture(lambda: cuda.launch(lambda: done.append(1)))()
    assert done == [1, 1]


def test_an_error_of_python_in_a_capture_refuses_it(cuda: CudaStandIn) -> None:
    """The capture itself ends well then, and torch restores its stream."""

    def raises() -> None:
        if cuda.capturing:
            raise RuntimeError("no such operator")

    with pytest.raises(CaptureRefused, match="no such operator"):
        CudaCapture(DEVICE)(raises)
    assert as_before(cuda)


@pytest.mark.parametrize("valid", [True, False], ids=["capture goes on", "capture is invalid"])
def test_full_memory_goes_on_as_full_memory(cuda: CudaStandIn, valid: bool) -> None:
    """Also where the end of the capture raises another error behind it."""

    def full() -> None:
        if cuda.capturing:
            cuda.valid = valid
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    with pytest.raises(torch.OutOfMemoryError, match=r"2\.00 GiB"):
        CudaCapture(DEVICE)(full)
    assert as_before(cuda)


def test_a_device_that_failed_is_no_refusal(cuda: CudaStandIn) -> None:
    """A fault of a kernel shows in a capture like anywhere else, and ends the process."""

    def faults() -> None:
        if cuda.capturing:
            cuda.failed, cuda.valid = True, False
            raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(ContextPoisoned, match="illegal memory access"):
        CudaCapture(DEVICE)(faults)


def test_memory_that_is_full_while_warming_up_is_not_captured_at_all(cuda: CudaStandIn) -> None:
    """The error is the allocator's, and nothing was begun."""

    def full() -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        CudaCapture(DEVICE)(full)
    assert (as_before(cuda), cuda.captured) == (True, [])
