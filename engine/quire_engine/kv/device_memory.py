"""Full device memory: which errors say so, and what a person is told.

torch's allocator has an error of its own for it. What allocates beside that, the driver for a kernel's code or a stack,
cuBLAS for a workspace, says it in words. None of it harms the context, and none of it is cured by the same process
again: what has to change is how the GPU is divided.
"""

from __future__ import annotations

import re
from contextlib import suppress

import torch

IN_WORDS = re.compile(r"cuda.*out of memory|CUDA_ERROR_OUT_OF_MEMORY|CUBLAS_STATUS_ALLOC_FAILED", re.IGNORECASE)
NEEDED = re.compile(r"Tried to allocate ([0-9.]+ [KMG]iB)")
GIB = 1 << 30


def memory_is_full(error: BaseException) -> bool:
    """Whether ``error`` says that a GPU's memory is full."""
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and IN_WORDS.search(str(error)) is not None
    )


def full_memory(error: BaseException, device: torch.device, tokens: int, sequences: int) -> str:
    """What happened and what to change, as a clause each.

    Args:
        tokens, sequences: of this engine's largest step.
    """
    needed = NEEDED.search(str(error))
    what = f", {needed[1]} more are needed" if needed else ""
    with suppress(RuntimeError, AssertionError, ValueError):  # too full to be asked, or no GPU of torch's
        free, total = torch.cuda.mem_get_info(device)
        own = torch.cuda.memory_reserved(device)
        what += f", {free / GIB:.2f} of {total / GIB:.2f} GiB are free and this engine's tensors have {own / GIB:.2f}"
    return (
        f"the GPU's memory is full{what}: give the pool less (--kv-gib or --blocks), make steps smaller"
        f" (--max-batch-tokens, now {tokens}, or --max-sequences, now {sequences}), run fewer engines, or end what else"
        " uses this GPU (nvidia-smi lists it)"
    )
