"""Which attention backend, and on which device the model computes.

Owns the setting ``engine.attention``. ``cpu`` is PyTorch on host memory, ``triton`` our kernels: on a GPU, or with
TRITON_INTERPRET=1 in Triton's interpreter on host memory, which proves the kernels without a GPU. ``auto`` is triton
where torch finds a GPU and cpu elsewhere.

The device is decided before the model is loaded and before a kvstore is known; that the pool's memory is reachable
from there is checked when a session's arena is wrapped. Triton is imported only where it is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec

import torch

from quire_engine.attention.backend import AttentionBackend
from quire_engine.attention.cpu.attention import CpuAttention, kernels_in_words
from quire_engine.checkpoint.device_need import STEP_SEQUENCES, STEP_TOKENS
from quire_engine.checkpoint.weights.float16 import FLOAT16, REFUSED
from quire_engine.kv.attach import arena_of
from quire_engine.model.largest_step import compute_largest_step
from quire_engine.model.model import Model
from quire_engine.model.runner import Runner
from quire_engine.scheduling.scheduler import SchedulerLimits
from quire_kv import KVClient, Layout
from quire_proto.wire.layout import E4M3

AUTO, CPU, TRITON = "auto", "cpu", "triton"


class BackendRefused(ValueError):
    """The wanted backend cannot work here; the message says why and what would help."""


@dataclass(frozen=True, slots=True)
class BackendChoice:
    """A backend that this process can have, and the device of its arena and of the model."""

    kind: str
    device: torch.device

    @property
    def on_gpu(self) -> bool:
        """Whether pool and weights lie in a GPU's memory."""
        return self.device.type == "cuda"

    def admit(self, layout: Layout) -> None:
        """Raise BackendRefused if this device cannot compute on such a pool, before anything is loaded."""
        if self.kind == CPU or layout.dtype != E4M3:
            return
        from quire_kernels.checks import FP8_SINCE, compute_capability

        major, minor = compute_capability(self.device)
        if (major, minor) < FP8_SINCE:
            raise BackendRefused(
                f"e4m3 keys and values need compute capability 8.9 or later, this GPU has {major}.{minor}:"
                " set kvstore.kv_cache_dtype = auto"
            )

    def limits(self, tokens: int, sequences: int, block_size: int) -> SchedulerLimits:
        """Of a step; 0 is what suits the device."""
        kind = self.device.type
        return SchedulerLimits(sequences or STEP_SEQUENCES[kind], tokens or STEP_TOKENS[kind], block_size)

    def admit_dtype(self, dtype: str) -> None:
        """Raise BackendRefused if this device computes in ``dtype`` so slowly that it is of no use.

        What a stack computes in was chosen before (``checkpoint/weights/float16``): oneDNN has the last word.
        """
        if dtype == FLOAT16 and self.device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_fp16_supported():
            raise BackendRefused(REFUSED)

    def kernels(self, layout: Layout) -> str:
        """What computes attention over such a pool, in words; where that is not a kernel of ours, why."""
        if self.kind == CPU:
            return kernels_in_words(layout)
        from importlib.metadata import version

        where = torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else "its interpreter, slowly"
        return f"Triton {version('triton')}, on {where}"

    def backend(self, arena: torch.Tensor, model: Model) -> AttentionBackend:
        """The backend over ``arena`` (layer, 2, kv_head, block, slot, d) for ``model``.

        Raises ValueError for a shape that the kernels do not know.
        """
        if self.kind == CPU:
            return CpuAttention(arena, model.scales)
        from quire_engine.attention.triton import TritonAttention

        return TritonAttention(arena, model.heads, scales=model.scales)

    def runner(self, client: KVClient, model: Model, limits: SchedulerLimits) -> Runner:
        """A runner over the arena of a session, for steps within ``limits``.

        On a GPU the largest step is computed first, and decode steps are captured as graphs where that is possible.

        Raises:
            BackendRefused: the arena lies where this process is not.
            OutOfMemoryError: such steps do not fit the GPU.
        """
        backend = self._over(client, model)
        if self.device.type != "cuda":
            return Runner(model, backend)
        from quire_engine.attention.triton import TritonAttention
        from quire_engine.model.graphs import CudaCapture, DecodeGraphs

        assert isinstance(backend, TritonAttention)
        graphs = DecodeGraphs(model, backend, limits.max_sequences, CudaCapture(self.device))
        runner = Runner(model, backend, graphs=graphs)
        try:
            compute_largest_step(model, backend, limits.max_batch_tokens, limits.max_sequences)
            graphs.make()
        except BaseException:
            runner.release()  # before the session is closed, which unmaps
            raise
        return runner

    def _over(self, client: KVClient, model: Model) -> AttentionBackend:
        on_host = isinstance(client.map(), memoryview)
        if on_host != (self.device.type == "cpu"):
            where, fix = ("in host memory", "cpu") if on_host else ("on a GPU", "triton")
            raise BackendRefused(
                f"the pool lies {where}, this engine computes on {self.device}: set engine.attention = {fix},"
                f" or kvstore.arena = {'auto' if on_host else 'shm'}"
            )
        return self.backend(arena_of(client), model)


def choose_backend(wanted: str) -> BackendChoice:
    """What the setting means on this machine. Raises BackendRefused."""
    assert wanted in (AUTO, CPU, TRITON), wanted
    gpu = torch.cuda.is_available()
    if wanted == CPU or (wanted == AUTO and not gpu):
        return BackendChoice(CPU, torch.device("cpu"))
    if find_spec("triton") is None:
        raise BackendRefused("Triton is not installed: install the extra 'gpu', or set engine.attention = cpu")
    from quire_kernels.checks import interpreting

    if interpreting():
        return BackendChoice(TRITON if wanted == TRITON else CPU, torch.device("cpu"))
    if not gpu:
        raise BackendRefused(
            "torch finds no GPU: set engine.attention = cpu, or TRITON_INTERPRET=1 to interpret the kernels, slowly"
        )
    return BackendChoice(TRITON, torch.device("cuda", 0))
