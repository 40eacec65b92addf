"""The decodes and prompts of step 3 through FlashInfer, where it is installed: a large wheel, and no part of Quire.

The same shapes and numbers of inputs, each library in the page layout that it likes best. FlashInfer may compile on
first use, which can take minutes: so this step comes last and has what time the others left.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any

import flashinfer
import numpy as np
import torch

from bench.gpu.kernels.cases import BLOCK, Bench, Heads
from bench.gpu.kernels.clock import milliseconds
from bench.gpu.step import Row, Step
from bench.report.figures import say

RESERVE_S = 5.0
WORKSPACE = 256 << 20


def decodes(bench: Bench, heads: Heads, batch: int, keys: int) -> list[Callable[[], Any]] | None:
    """Batched decodes over pages in no order; None if they do not fit the memory for inputs."""
    pages = batch * -(-keys // BLOCK)
    caches = bench.views(bench.dtype, 2, pages, heads.kv_heads, BLOCK, heads.head_dim)
    if caches is None:
        return None
    workspace = torch.zeros(WORKSPACE, dtype=torch.uint8, device=bench.device)
    wrapper = flashinfer.BatchDecodeWithPagedKVCacheWrapper(workspace, "HND", use_tensor_cores=heads.group > 1)
    index = partial(torch.tensor, dtype=torch.int32, device=bench.device)
    wrapper.plan(
        index(np.arange(batch + 1) * (pages // batch)),
        index(np.random.default_rng(0).permutation(pages)),
        index([(keys - 1) % BLOCK + 1] * batch),
        heads.heads,
        heads.kv_heads,
        heads.head_dim,
        BLOCK,
        q_data_type=bench.dtype,
        kv_data_type=bench.dtype,
    )
    query = torch.randn(batch, heads.heads, heads.head_dim, device=bench.device).to(bench.dtype)
    return [partial(wrapper.run, query, (cache[0], cache[1])) for cache in caches]


def prompts(bench: Bench, heads: Heads, tokens: int) -> list[Callable[[], Any]] | None:
    """One prompt over contiguous keys and values; None if they do not fit."""
    memory = bench.views(bench.dtype, 2, tokens, heads.kv_heads, heads.head_dim)
    if memory is None:
        return None
    query = torch.randn(tokens, heads.heads, heads.head_dim, device=bench.device).to(bench.dtype)
    return [partial(flashinfer.single_prefill_with_kv_cache, query, k, v, causal=True) for k, v in memory]


def main() -> int:
    """Run the step."""
    step = Step.from_arguments(__doc__)
    heads = Heads(32, 8, 128)
    with torch.inference_mode():
        bench = Bench(torch.device(step.device), min(36 << 30, int(0.6 * torch.cuda.mem_get_info()[0])))
        cases: list[tuple[str, Row, Callable[[], list[Callable[[], Any]] | None]]] = [
            ("decode", {"batch": b, "keys": k}, partial(decodes, bench, heads, b, k))
            for b, k in product((1, 8, 32, 128), (512, 4096, 32768))
        ]
        cases += [("prefill", {"tokens": n}, partial(prompts, bench, heads, n)) for n in (512, 4096, 16384)]
        rows: dict[str, list[Row]] = {"decode": [], "prefill": []}
        for name, row, case in cases:
            if step.left < RESERVE_S:
                step.failures["time"] = "no time left for the other rows"
                break
            try:
                runs = case()
                row["flashinfer_ms"], row["note"] = milliseconds(runs, bench.device) if runs else (None, "no room")
            except (RuntimeError, ValueError, TypeError) as exc:
                row["note"] = step.failures[f"{name} {row}"] = str(exc).partition("\n")[0][:300]
            rows[name].append(row)
            step.figures |= {f"flashinfer {key}": found for key, found in rows.items()}
            step.save()
            say(f"{name}: {row}")
    return step.end()


if __name__ == "__main__":
    raise SystemExit(main())
