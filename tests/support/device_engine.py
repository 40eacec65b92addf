"""A real engine whose GPU is the recorder: what it takes for device memory is host memory that processes really share.

    python -m tests.support.device_engine RECORDER.json FLAGS...

It computes on the CPU, over tensors that are views of that memory, with their rights. All else is as on a GPU: how it
attaches, where its weights lie, what becomes of them.
"""

from __future__ import annotations

import ctypes
import json
import sys
from pathlib import Path

import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.backends import CPU, BackendChoice
from quire_engine.kv import attach
from quire_engine.model.model import Model
from quire_engine.model.shared_gpu import device_model
from quire_kv import DeviceMemory, KVClient
from quire_proto.memory.cuda_device import visible
from quire_services.daemons import engined
from tests.kvstore.host.cuda_arena.recorder import Recorder


def host_view(memory: DeviceMemory) -> torch.Tensor:
    """What stands in for device memory, as bytes."""
    return torch.frombuffer((ctypes.c_ubyte * memory.bytes).from_address(memory.pointer), dtype=torch.uint8)


class StandInChoice(BackendChoice):
    """A CPU that is taken for a GPU."""

    @property
    def on_gpu(self) -> bool:
        """So that pool and weights are looked for there."""
        return True

    def _over(self, client: KVClient, model: Model) -> AttentionBackend:
        return self.backend(attach.arena_of(client), model)


def install(recorder: Recorder) -> None:
    """Have this process take the recorder for its driver and the CPU for its GPU."""
    sys.modules["cuda.bindings.driver"] = recorder  # type: ignore[assignment]
    attach.wrap_memory = device_model.wrap_memory = host_view  # type: ignore[attr-defined]
    engined.choose_backend = lambda _: StandInChoice(CPU, torch.device("cpu"))
    engined.gpu_uuid = lambda _: visible()[0].uuid


def main(argv: list[str]) -> int:
    """Run the engine."""
    install(Recorder(**json.loads(Path(argv[0]).read_text())))
    return engined.main(argv[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
