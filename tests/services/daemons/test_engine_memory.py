"""An engine without memory: it ends with code 1, which has it started again, whichever way the lack shows."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from quire_services.daemons import engined

TORCH = "[enforce fail at alloc_cpu.cpp:127] DefaultCPUAllocator: can't allocate memory: you tried to allocate 4 bytes."
LACKS = [MemoryError("no arena"), torch.OutOfMemoryError("CUDA out of memory"), RuntimeError(TORCH)]


@pytest.mark.parametrize("lack", LACKS, ids=["python", "gpu", "host"])
def test_it_ends_and_is_not_refused(
    lack: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """While it serves, and in the self-test before that: nothing is wrong with its model."""

    def fail(*_: Any) -> int:
        raise lack

    monkeypatch.setattr(engined.logs, "configure", lambda *_, **__: None)
    monkeypatch.setattr(engined, "_run", fail)
    assert engined.main(["--model", "m"]) == 1
    assert "out of memory" in capsys.readouterr().err.splitlines()[-1]
    monkeypatch.setattr(engined, "self_test", fail)
    with pytest.raises(type(lack)) as raised:
        engined._prove(*[None] * 3)  # type: ignore[arg-type]
    assert raised.value is lack


def test_another_error_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not every error of torch's is a lack of memory."""

    def fail(*_: Any) -> int:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr(engined.logs, "configure", lambda *_, **__: None)
    monkeypatch.setattr(engined, "_run", fail)
    with pytest.raises(RuntimeError, match="shapes"):
        engined.main(["--model", "m"])
