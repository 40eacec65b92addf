"""The least that an engine is, in one process: a pool behind a descriptor, the self-test, and decode steps as graphs.

No kvstore and no gateway: memory as the kvstore makes it and as an engine maps it, a model in bfloat16, its self-test
over the kernels, a capture, and for several batch sizes the logits of a replay beside those of the same step launched
kernel by kernel. Replays are counted: a step that quietly ran without its graph has shown nothing.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.gpu.processes.stack import write_model
from bench.gpu.report import SHORT
from bench.gpu.step import Row, Step
from quire_engine.attention.plan import AttentionPlan, build_plan
from quire_engine.attention.triton import TritonAttention
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.graphs import Capture, CudaCapture, DecodeGraphs
from quire_engine.model.model import Model, load_model
from quire_engine.model.selftest.selftest import self_test
from quire_engine.transfer import to_device
from quire_kv import Layout

BLOCK = 16
BOOT = b"replays"
CLOSE = 0.05  # of the spread of the logits: bfloat16 has 8 bits, and sums go in other orders


@contextmanager
def pool(layout: Layout, blocks: int, device: torch.device) -> Iterator[torch.Tensor]:
    """The arena as a tensor: on a GPU mapped from a descriptor, else plain memory."""
    shape, dtype = layout.shape(blocks), torch.bfloat16
    if device.type != "cuda":
        yield torch.full(shape, torch.nan, dtype=torch.float32)
        return
    from quire_kvstore.host.cuda_arena import CudaVmmFdArena
    from quire_proto.memory import cuda_device
    from quire_proto.memory.cuda_mapping import DeviceMapping

    torch.zeros(1, device=device)  # the primary context is PyTorch's
    size = layout.arena_bytes(blocks)
    arena = CudaVmmFdArena(size, cuda_device.visible()[device.index or 0])
    mapping = DeviceMapping(arena.handle(), size, BOOT, arena.fd)
    try:
        flat = torch.as_tensor(mapping.view, device=device)
        assert flat.data_ptr() == mapping.view.pointer, "the arena was copied instead of wrapped"
        yield flat.view(dtype).view(shape)
    finally:
        torch.cuda.synchronize(device)
        mapping.close()
        arena.close()


def capture(device: torch.device) -> Capture:
    """The real one on a GPU; without one the launches again, as in the tests."""
    return CudaCapture(device) if device.type == "cuda" else lambda launch: launch


def decode_step(batch: int, keys: int) -> AttentionPlan:
    """One token each of ``batch`` sequences of ``keys`` tokens, blocks in no order."""
    blocks = -(-keys // BLOCK)
    tables = np.random.default_rng(0).permutation(batch * blocks).astype(np.int32).reshape(batch, blocks)
    return build_plan(list(tables), [keys - 1] * batch, [1] * batch, BLOCK)


def made(graphs: DecodeGraphs, batches: tuple[int, ...]) -> int:
    """How many graphs there are. Raises RuntimeError if the launches cannot be captured."""
    graphs.make(batches)
    if graphs.why_none:
        raise RuntimeError(graphs.why_none)
    return len(batches)


def replayed_beside_launched(graphs: DecodeGraphs, model: Model, batch: int, keys: int) -> Row:
    """Logits of a step replayed and launched. Raises RuntimeError if they differ, or if there was no replay."""
    tokens = to_device(torch.arange(7, 7 + batch), model.device)
    before = graphs.replays
    found = graphs.forward(tokens, decode_step(batch, keys))
    if found is None or graphs.replays != before + 1:
        raise RuntimeError(f"the step ran without its graph: {graphs.why_none or 'it did not fit'}")
    replayed = found.float().clone()
    launched = model.forward(tokens, decode_step(batch, keys), torch.arange(batch)).float()
    spread, off = float(launched.std()), float((replayed - launched).abs().max())
    same = int((replayed.argmax(-1) == launched.argmax(-1)).sum())
    row = {"batch": batch, "spread": spread, "largest_difference": off, "same_best_token": same}
    if not bool(torch.isfinite(replayed).all()) or off > CLOSE * spread:
        raise RuntimeError(f"a replay differs from the launches: {row}")
    return row


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__)
    device = torch.device(step.device, 0) if not step.dry else torch.device("cpu")
    dtype = "float32" if step.dry else "bfloat16"
    batches, keys = ((1, 3), 20) if step.dry else ((1, 7, 64), 600)
    sizes: dict[str, Any] = {"layers": 2, "heads": 4, "kv_heads": 1, "hidden": 64, "head_dim": 16, "vocab": 64}
    if not step.dry:
        sizes = {"layers": 4, "heads": 16, "kv_heads": 4, "hidden": 1024, "head_dim": 64, "vocab": 8000}
    with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch, torch.inference_mode():
        directory = write_model(Path(scratch) / "model", **sizes)
        model, layout = load_model(directory, dtype, device), layout_of(directory, dtype, BLOCK)
        step.part("self-test", lambda: self_test(model, layout, lambda arena: TritonAttention(arena, model.heads)))
        try:
            with pool(layout, max(batches) * -(-keys // BLOCK), device) as arena:
                arena.normal_()
                replay_all(step, model, arena, batches, keys)
        except Exception as error:  # no pool: a result, like a part's
            step.fail("pool", error)
    step.figures[SHORT] = f"{step.figures.get('replays', 0)} replays equal their launches"
    return step.end()


def replay_all(step: Step, model: Model, arena: torch.Tensor, batches: tuple[int, ...], keys: int) -> None:
    """A part for each batch size, and the count of replays."""
    backend = TritonAttention(arena, model.heads)
    model.use(backend)
    graphs = DecodeGraphs(model, backend, max(batches), capture(arena.device))
    step.part("captures", lambda: made(graphs, batches))
    for batch in batches:
        step.part(f"replay of {batch} rows", partial(replayed_beside_launched, graphs, model, batch, keys))
    step.figures["replays"] = graphs.replays
    graphs.drop()


if __name__ == "__main__":
    raise SystemExit(main())
