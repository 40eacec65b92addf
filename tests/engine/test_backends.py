"""Which attention backend an engine takes, where it may lie, and what both backends do alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton

from bench.models.tiny import make_model
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.triton import TritonAttention
from quire_engine.backends import CPU, TRITON, BackendChoice, BackendRefused, choose_backend
from quire_engine.model.graphs import DecodeGraphs
from quire_engine.model.model import load_model
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_services.config.settings import Config, EngineSettings, KvstoreSettings, ServeSettings
from quire_services.stack.processes import Stack
from tests.kernels.batch import DEVICE
from tests.support.cuda_stand_in import CudaStandIn

HOST, GPU = torch.device("cpu"), torch.device("cuda", 0)
LIMITS = SchedulerLimits(8, 64, 16)


@pytest.mark.parametrize(
    ("wanted", "gpu", "interpret", "chosen"),
    [
        ("cpu", True, False, BackendChoice(CPU, HOST)),
        ("auto", False, False, BackendChoice(CPU, HOST)),
        ("auto", True, False, BackendChoice(TRITON, GPU)),
        ("auto", False, True, BackendChoice(CPU, HOST)),
        ("triton", True, False, BackendChoice(TRITON, GPU)),
        ("triton", False, True, BackendChoice(TRITON, HOST)),
    ],
)
def test_the_setting_and_the_machine_decide(
    monkeypatch: pytest.MonkeyPatch, wanted: str, gpu: bool, interpret: bool, chosen: BackendChoice
) -> None:
    """auto is triton where there is a GPU; the interpreter runs on the host, and only where triton was asked for."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", interpret)
    assert choose_backend(wanted) == chosen


@pytest.mark.parametrize(("dtype", "device", "refused"), [
    ("float16", HOST, True),
    ("float16", GPU, False),
    ("bfloat16", HOST, False),
])  # fmt: skip
def test_float16_is_refused_where_the_processor_has_none(dtype: str, device: torch.device, refused: bool) -> None:
    """On a CPU without instructions for it, and with what to set instead; a GPU computes in it."""
    if device == HOST and torch.ops.mkldnn._is_mkldnn_fp16_supported():
        pytest.skip("this processor has them")
    choice = BackendChoice(CPU if device == HOST else TRITON, device)
    if refused:
        with pytest.raises(BackendRefused, match=r"kvstore\.dtype = bfloat16"):
            choice.admit_dtype(dtype)
    else:
        choice.admit_dtype(dtype)


def test_triton_without_gpu_and_interpreter_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The complaint names both ways out."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(triton.knobs.runtime, "interpret", False)
    with pytest.raises(BackendRefused, match="attention = cpu, or TRITON_INTERPRET=1"):
        choose_backend("triton")


@pytest.mark.parametrize(
    ("device", "memory", "complaint"),
    [
        (GPU, memoryview(b""), "lies in host memory, this engine computes on cuda:0"),
        (HOST, SimpleNamespace(device=0), "lies on a GPU, this engine computes on cpu"),
    ],
)
def test_a_pool_on_the_other_side_is_refused(device: torch.device, memory: Any, complaint: str) -> None:
    """An engine never computes on memory that its device cannot reach."""
    client = SimpleNamespace(map=lambda: memory)
    with pytest.raises(BackendRefused, match=complaint):
        BackendChoice(CPU, device).runner(client, SimpleNamespace(), LIMITS)  # type: ignore[arg-type]


@pytest.mark.parametrize(("device", "expected"), [(HOST, (64, 512)), (GPU, (256, 8192))])
def test_steps_suit_the_device_unless_they_are_said(device: torch.device, expected: tuple[int, int]) -> None:
    """A GPU gets larger ones, and each setting counts for itself."""
    choice = BackendChoice(CPU, device)
    assert choice.limits(0, 0, 16) == SchedulerLimits(*expected, 16)
    assert choice.limits(100, 0, 16) == SchedulerLimits(expected[0], 100, 16)
    assert choice.limits(0, 3, 32) == SchedulerLimits(3, expected[1], 32)


@pytest.mark.parametrize("full_at", ["the largest step", "the graphs"])
def test_steps_that_do_not_fit_a_gpu_end_the_attach(
    full_at: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error is that of the memory, and the arena is let go before the session that maps it is closed."""
    CudaStandIn().install(monkeypatch)
    model = load_model(make_model(tmp_path, hidden=32, heads=2, kv_heads=1, vocab=64))
    arena = torch.full((model.config.num_hidden_layers, 2, 1, 4, 16, 16), torch.nan)
    done: list[str] = []

    def step(*_: Any) -> None:
        done.append("the largest step")
        if full_at in done:
            raise torch.OutOfMemoryError("CUDA out of memory")

    def captured(*_: Any) -> None:
        done.append("the graphs")
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("quire_engine.backends.compute_largest_step", step)
    monkeypatch.setattr(DecodeGraphs, "make", captured)
    monkeypatch.setattr(BackendChoice, "_over", lambda *_: TritonAttention(arena, model.heads))
    with pytest.raises(torch.OutOfMemoryError):
        BackendChoice(TRITON, GPU).runner(SimpleNamespace(), model, LIMITS)  # type: ignore[arg-type]
    assert done[-1] == full_at
    assert model.backend is None


@pytest.mark.parametrize(
    ("arena", "attention", "interpret", "expected"),
    [
        ("auto", "auto", "", ("auto", "auto")),
        ("auto", "cpu", "", ("shm", "cpu")),
        ("auto", "triton", "", ("auto", "triton")),
        ("auto", "triton", "1", ("shm", "triton")),
        ("shm", "auto", "", ("shm", "cpu")),
        ("cuda-ipc", "auto", "", ("cuda-ipc", "auto")),
    ],
)
def test_the_stack_puts_arena_and_attention_on_one_side(
    monkeypatch: pytest.MonkeyPatch, arena: str, attention: str, interpret: str, expected: tuple[str, str]
) -> None:
    """Where one of them is on the host by configuration, the other is not left to a probe; prepare knows of it."""
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    config = Config(ServeSettings(model="m"), KvstoreSettings(arena=arena), EngineSettings(attention=attention))
    stack = Stack(config, Path("run"))
    assert f"--arena={expected[0]}" in stack.kvstore.argv
    assert f"--attention={expected[1]}" in stack.engines[0].argv
    assert f"--attention={expected[1]}" in stack.prepare.argv


def test_both_backends_copy_blocks_alike() -> None:
    """The first slots of a block are copied in all layers, in order, and nothing behind them."""
    arena = torch.rand(2, 2, 2, 5, 16, 32)
    cpu, triton_ = CpuAttention(arena.clone()), TritonAttention(arena.clone().to(DEVICE), heads=4)
    copies = [(0, 1, 16), (1, 2, 3), (3, 4, 1)]
    for backend in (cpu, triton_):
        backend.copy_blocks(copies)  # type: ignore[attr-defined]
    assert torch.equal(cpu.arena, triton_.arena.cpu())
    assert torch.equal(cpu.arena[:, :, :, 2, :3], arena[:, :, :, 0, :3])
    assert torch.equal(cpu.arena[:, :, :, 2, 3:], arena[:, :, :, 2, 3:])
