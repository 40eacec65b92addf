"""An engine without memory: its exit code and its reason, whichever way the lack shows, on a host and on a GPU."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from quire_engine.backends import TRITON, BackendChoice
from quire_services.config.settings import Config
from quire_services.daemons import engined
from quire_services.process.screen import Screen
from quire_services.stack import serve
from quire_services.stack.child import Child
from quire_services.stack.rundir import RunDir

TORCH = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."
LACKS = [MemoryError("no arena"), RuntimeError(TORCH)]
GPU = BackendChoice(TRITON, torch.device("cuda", 0))
FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.11 GiB"),
    torch.AcceleratorError("CUDA error: out of memory"),
    RuntimeError("Triton Error [CUDA]: out of memory"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]


def failing(lack: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine on a GPU in whose run, and whose self-test, this is raised."""

    def fail(*_: Any) -> int:
        raise lack

    monkeypatch.setattr(engined.logs, "configure", lambda *_, **__: None)
    monkeypatch.setattr(engined, "settled", lambda config: config)
    monkeypatch.setattr(engined, "choose_backend", lambda _: GPU)
    monkeypatch.setattr(engined, "_run", fail)
    monkeypatch.setattr(engined, "self_test", fail)


def assert_no_refusal(lack: Exception) -> None:
    """In the self-test it is no fault of the model's."""
    with pytest.raises(type(lack)) as raised:
        engined._prove(*[None] * 3)  # type: ignore[arg-type]
    assert raised.value is lack


@pytest.mark.parametrize("lack", LACKS, ids=["python", "torch"])
def test_a_full_host_ends_it_and_does_not_refuse_the_model(
    lack: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it serves, and in the self-test before that: nothing is wrong with its model."""
    failing(lack, monkeypatch)
    assert engined.main(["--model", "m"]) == 1
    assert "out of memory" in capsys.readouterr().err.splitlines()[-1]
    assert_no_refusal(lack)


@pytest.mark.parametrize("lack", FULL, ids=["torch", "driver", "triton", "cublas"])
def test_a_full_gpu_has_an_exit_code_and_a_line_that_says_what_to_change(
    lack: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """5, what there is, what is missing, and the settings by which the GPU is divided, with their values now."""
    failing(lack, monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (1 << 28, 80 << 30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 20 << 30)
    assert engined.main(["--model", "m", "--max-sequences", "100"]) == engined.EXIT_DEVICE_FULL == 5
    said = capsys.readouterr().err.splitlines()[-1]
    assert "0.25 of 80.00 GiB are free and this engine's tensors have 20.00" in said
    assert "--kv-gib" in said
    assert "--max-batch-tokens, now 8192, or --max-sequences, now 100" in said
    assert ("2.50 GiB more are needed" in said) == isinstance(lack, torch.OutOfMemoryError)
    assert_no_refusal(lack)


def test_a_gpu_too_full_to_be_asked_is_full_all_the_same(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The numbers are left out then."""

    def fails(_: Any) -> tuple[int, int]:
        raise torch.AcceleratorError("CUDA error: out of memory")

    failing(FULL[1], monkeypatch)
    monkeypatch.setattr(torch.cuda, "mem_get_info", fails)
    assert engined.main(["--model", "m"]) == engined.EXIT_DEVICE_FULL
    assert "the GPU's memory is full: give the pool less" in capsys.readouterr().err.splitlines()[-1]


def test_the_supervisor_says_it_with_the_engines_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """While the stack serves the engine is started again, with what to change in the same line."""
    run_dir = RunDir(tmp_path / "run")
    stack = serve.StackRun(Config(), run_dir, Screen(sys.stdout))
    stack._was_ready = True
    engine = Child("engine-1", ["true"])
    engine.reason = "the GPU's memory is full: give the pool less (--kv-gib or --blocks)"
    with stack._supervisor:
        stack._ended(engine, engined.EXIT_DEVICE_FULL, 0.1)
    assert not stack.failure
    said = f"engine-1 ended with exit code 5: {engine.reason}; starting it again in 0.1 s"
    assert said in " ".join(capsys.readouterr().out.split())
    run_dir.close()


def test_another_error_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every error of torch's is a lack of memory."""
    failing(RuntimeError("shapes do not match"), monkeypatch)
    with pytest.raises(RuntimeError, match="shapes"):
        engined.main(["--model", "m"])
