"""Which attention backend an engine takes, where it may lie, and what both backends do alike."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import triton

from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.triton import TritonAttention
from quire_engine.backends import CPU, TRITON, BackendChoice, BackendRefused, choose_backend
from quire_services.config.settings import Config, EngineSettings, KvstoreSettings, ServeSettings
from quire_services.stack.processes import Stack
from tests.kernels.batch import DEVICE

HOST, GPU = torch.device("cpu"), torch.device("cuda", 0)


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
        BackendChoice(CPU, device).runner(client, SimpleNamespace(), 8)  # type: ignore[arg-type]


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
    """Where one of them is on the host by configuration, the other is not left to a probe."""
    monkeypatch.setenv("TRITON_INTERPRET", interpret)
    config = Config(ServeSettings(model="m"), KvstoreSettings(arena=arena), EngineSettings(attention=attention))
    stack = Stack(config, Path("run"))
    assert f"--arena={expected[0]}" in stack.kvstore.argv
    assert f"--attention={expected[1]}" in stack.engines[0].argv


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
