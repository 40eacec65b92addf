"""How an engine lets go of a device arena: in which order, and with which exit code if the GPU failed."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from quire_engine.engine import Engine
from quire_engine.kv import attach
from quire_engine.kv.attach import ContextPoisoned, gpu_uuid, quiesce
from quire_engine.model.runner import Runner
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_engine.scheduling.step_log import StepLog
from quire_proto.wire.errors import DeviceFault, StaleSession
from quire_services.daemons import engined
from tests.kvstore.host.cuda_arena.recorder import Recorder

ON_GPU = SimpleNamespace(device=torch.device("cuda", 0))


class Model:
    """Holds a backend, as a model does."""

    vocab_size = 8
    config = SimpleNamespace(num_hidden_layers=0)

    def __init__(self, done: list[str]) -> None:
        self.done = done

    def use(self, backend: Any) -> None:
        self.backend = backend

    def let_go(self) -> None:
        self.done.append("tensors dropped")


class Client:
    """A session whose kvstore is gone."""

    boot, num_blocks, block_size = b"boot", 1, 16
    lost_reason = StaleSession("STALE_SESSION", "gone")
    lost = SimpleNamespace(is_set=lambda: True)

    def __init__(self, done: list[str]) -> None:
        self.done = done

    def close(self) -> None:
        self.done.append("unmapped")


def _engine(done: list[str]) -> Engine:
    def runner(_: Any) -> Runner:
        made = Runner(Model(done), SimpleNamespace(arena=ON_GPU))  # type: ignore[arg-type]
        made.on_release.append(lambda: done.append("graphs dropped"))
        return made

    limits = SchedulerLimits(1, 16, 16)
    engine = Engine(lambda: Client(done), runner, limits, 16, 16, frozenset(), StepLog(None))  # type: ignore[arg-type, return-value]

    def receive(_: float) -> list[Any]:
        engine.stop()  # one session, then the end
        return []

    engine.front = SimpleNamespace(report=list, wake=list, receive=receive)  # type: ignore[assignment]
    return engine


def test_after_the_kvstores_loss_an_engine_synchronises_drops_graphs_and_unmaps(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """In this order, and the engine goes on to the next kvstore."""
    done: list[str] = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: done.append("synchronised"))
    _engine(done).run()
    assert done == ["synchronised", "graphs dropped", "tensors dropped", "unmapped"]


def test_a_poisoned_context_ends_the_engine_without_a_goodbye(monkeypatch: pytest.MonkeyPatch) -> None:
    """A detach would say that nothing writes any more; only the death of the process may say that now."""
    done: list[str] = []

    def failed(_: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nmore")

    monkeypatch.setattr(torch.cuda, "synchronize", failed)
    with pytest.raises(ContextPoisoned, match=r"illegal memory access was encountered$"):
        _engine(done).run()
    assert done == []


@pytest.mark.parametrize(
    "error", [ContextPoisoned("sticky"), DeviceFault("sticky"), torch.AcceleratorError("CUDA error")]
)
def test_the_exit_code_is_distinct(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """4: nothing is wrong with model or configuration; a new process can go on."""

    def fail(*_: Any) -> int:
        raise error

    def leave(code: int) -> None:
        raise SystemExit(code)

    monkeypatch.setattr(engined, "settled", lambda config: config)
    monkeypatch.setattr(engined, "_run", fail)
    monkeypatch.setattr(engined.logs, "configure", lambda *_, **__: None)
    monkeypatch.setattr(engined.os, "_exit", leave)
    with pytest.raises(SystemExit) as left:
        engined.main(["--model", "m"])
    assert left.value.code == engined.EXIT_POISONED == 4


def test_a_host_arena_needs_no_gpu(recorder: Recorder) -> None:
    """On a CPU letting go asks no driver, and attach names no GPU."""
    quiesce(torch.device("cpu"))
    assert gpu_uuid(torch.device("cpu")) == ""
    assert recorder.calls == []
    assert gpu_uuid(torch.device("cuda", 0)) == "GPU-00000000-0000-0000-0000-000000000000"


def test_the_arena_is_wrapped_as_bytes_and_viewed_in_its_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    """The tensor starts at the arena's pointer and has the layout's shape."""
    from quire_proto.memory.cuda_mapping import DeviceMemory
    from tests.kvstore.host.cuda_arena.stack import BLOCKS, LAYOUT, SIZE

    memory = torch.zeros(SIZE, dtype=torch.uint8)
    pointer = DeviceMemory(1, memory.data_ptr(), SIZE)
    asked: list[Any] = []

    def as_tensor(value: Any, device: str) -> torch.Tensor:
        asked.append((value.__cuda_array_interface__, device))
        return memory

    monkeypatch.setattr(attach.torch, "as_tensor", as_tensor)
    client = SimpleNamespace(layout=LAYOUT, num_blocks=BLOCKS, map=lambda: pointer)
    arena = attach.arena_of(client)  # type: ignore[arg-type]
    assert (arena.shape, arena.dtype, arena.data_ptr()) == (LAYOUT.shape(BLOCKS), torch.bfloat16, memory.data_ptr())
    interface = {"shape": (SIZE,), "typestr": "|u1", "data": (memory.data_ptr(), False), "strides": None, "version": 3}
    assert asked == [(interface, "cuda:1")]
