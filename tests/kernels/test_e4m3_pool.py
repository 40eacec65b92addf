"""Both backends over an e4m3 arena: the same bits stored, the same attention, and the self-test's word for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.models.tiny import make_model
from quire_engine.attention.cpu.attention import CpuAttention
from quire_engine.attention.plan import build_plan
from quire_engine.attention.triton import TritonAttention
from quire_engine.checkpoint.kv_scales import KvScales
from quire_engine.checkpoint.layout import layout_of
from quire_engine.model.model import load_model
from quire_engine.model.selftest.selftest import self_test
from quire_proto.wire.layout import E4M3
from tests.kernels.batch import DEVICE


def random_scales(layers: int, heads: int) -> KvScales:
    """A different scale for each layer, head, and keys or values; none a power of two."""
    draw = np.random.default_rng(0)
    keys, values = draw.uniform(0.05, 0.3, (2, layers, heads)).astype(np.float32)
    return KvScales(keys, values)


def test_the_triton_backend_passes(tmp_path: Path) -> None:
    """The kernels, scales included, pass the same self-test."""
    path = make_model(tmp_path, hidden=32, heads=2, kv_heads=2, vocab=64)
    random_scales(2, 2).write(path)
    model, layout = load_model(path, device=DEVICE), layout_of(path, E4M3, 16)
    self_test(model, layout, lambda arena: TritonAttention(arena, model.heads, scales=model.scales))


def test_both_backends_store_the_same_bits_and_read_alike() -> None:
    """A prefill and decodes over shared blocks: the arenas are equal bit by bit, results to rounding."""
    random, scales = torch.Generator().manual_seed(1), random_scales(2, 2)
    arena = torch.full((2, 2, 2, 9, 16, 32), torch.nan).to(torch.float8_e4m3fn)
    cpu = CpuAttention(arena.clone(), scales)
    triton = TritonAttention(arena.clone().to(DEVICE), 4, scales=scales)
    tables = [np.array(t, np.int32) for t in ([5, 1, 7], [5, 1, 0], [2])]
    for starts, counts in (([0], [40]), ([40, 32, 0], [1, 1, 13])):
        plan = build_plan(tables[: len(starts)], starts, counts, 16)
        rows = len(plan.positions)
        query, key, value = (torch.randn(n, rows, 32, generator=random) * 3 for n in (4, 2, 2))
        got = []
        for backend, device in ((cpu, torch.device("cpu")), (triton, DEVICE)):
            backend.write_kv(1, key.to(device), value.to(device), plan)
            got.append(backend.attend(1, query.to(device), plan, scale=0.2).cpu())

        assert torch.equal(cpu.arena.view(torch.uint8), triton.arena.cpu().view(torch.uint8))
        torch.testing.assert_close(*got, rtol=1e-4, atol=1e-4)
        assert not got[0].isnan().any()
