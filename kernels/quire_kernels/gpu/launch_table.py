"""Launch parameters: tile sizes, warps and pipeline stages of the attention kernels.

Owns the choice, which is made from a checked-in table (``launch_table.json``) keyed by architecture, head_dim,
query heads per KV head, dtype of keys and values, and regime. Nothing is tuned while requests are served: that
would add jitter, need a warm GPU and break captured graphs. Rows of architectures that we know are chosen by what the
compiler makes of them, until an offline sweep (``bench/gpu/sweep.py``) writes measured ones; where there is none,
``rule`` gives parameters that fit the shared memory of any chip and, in fp16 and bf16 up to head_dim 128, compile
without spills (``scripts/cubins.py`` proves both).

Triton gives a load ``(stages - 1) // (indirections + 1)`` buffers, and a block table is an indirection: two buffers of
keys and values, the least that lets loads overlap multiplication, take five stages.

Invariant: ``block_m`` is at least the number of query heads per KV head, and all fall-backs of a launch have the
same ``block_m``, because the step's tiles are cut to it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

import torch
import triton

from quire_kernels.checks import interpreting

# Shared memory a program may ask for, bytes; what is not listed gets the smallest.
SHARED_LIMIT = {"sm_80": 166912, "sm_86": 101376, "sm_89": 101376, "sm_90": 232448, "sm_100": 232448, "sm_120": 101376}
SMALLEST_LIMIT = min(SHARED_LIMIT.values())
INTERPRETER = "interpreter"
MAX_REGISTERS = 255  # of a thread, on every architecture here
SM_REGISTERS, REGISTER_UNIT = 65536, 256  # of a multiprocessor; a warp's are rounded up to units
SM_WARPS = {"sm_80": 64, "sm_90": 64, "sm_100": 64}  # that a multiprocessor holds; others 48
PROGRAM_SHARED = 1024  # bytes of shared memory that each program takes beside its own, and an SM has beside the limit


@dataclass(frozen=True, slots=True)
class Launch:
    """Parameters of one kernel launch.

    ``block_m`` counts rows times query heads per KV head. ``max_registers`` of a thread: None leaves the choice to
    ptxas, which spills a few bytes if that lets one more program onto a multiprocessor. ``per_sm``: programs that a
    multiprocessor holds at a time, which the split rule cuts for. ``kv_buffers`` of keys and of values: what the stages
    come to on this architecture.
    """

    block_m: int
    block_n: int
    num_warps: int
    num_stages: int
    max_registers: int | None = None
    per_sm: int = 1
    kv_buffers: int = 1

    @property
    def options(self) -> dict[str, int]:
        """What Triton takes beside the kernel's arguments."""
        found = {"num_warps": self.num_warps, "num_stages": self.num_stages}
        return found if self.max_registers is None else found | {"maxnreg": self.max_registers}


def architecture(device: torch.device) -> str:
    """``sm_90`` and the like, or ``interpreter``."""
    if interpreting():
        return INTERPRETER
    major, minor = torch.cuda.get_device_capability(device)
    return f"sm_{major}{minor}"


def launch_for(arch: str, head_dim: int, group: int, dtype: torch.dtype, regime: str) -> Launch:
    """Parameters from the table, or from the rule if the table has no row.

    Args:
        arch: see :func:`architecture`.
        group: query heads per KV head.
        dtype: of keys and values.
        regime: ``decode``, ``group`` or ``prefill``.
    """
    name = str(dtype).removeprefix("torch.")
    found = table().get((arch, head_dim, group, name, regime))
    if found is None:
        found = table().get((arch, head_dim, None, name, regime))
    return found if found is not None and group <= found.block_m else rule(arch, head_dim, group, dtype, regime)


def rule(arch: str, head_dim: int, group: int, dtype: torch.dtype, regime: str) -> Launch:
    """Safe parameters for anything; arguments as for :func:`launch_for`."""
    width = triton.next_power_of_2(head_dim)
    needed = triton.next_power_of_2(group)
    if arch == INTERPRETER:
        return Launch(max(16, needed), 32, 4, 1)
    wide = width > 128 or dtype == torch.float32
    rows = {"decode": 16, "group": 32 if wide else 64, "prefill": 32 if wide else 64}[regime]
    rows = max(rows, needed)
    # Four warps hold the sums of 64 x 64 in registers beside everything else; more, or a mask over d, would spill.
    warps = 8 if rows * width > 64 * 64 or (rows * width == 64 * 64 and width != head_dim) else 4
    if width >= 128 and dtype == torch.float32:
        warps = 8  # multiplied without tensor cores, from registers
    launch = Launch(rows, 32 if wide else 64, warps, 2, MAX_REGISTERS, 8 // warps)
    limit = SHARED_LIMIT.get(arch, SMALLEST_LIMIT)
    while _shared_estimate(launch, width, dtype) > limit and (smaller := _smaller(launch)) is not None:
        launch = smaller
    return launch


def programs_per_sm(arch: str, num_warps: int, registers: int, shared: int) -> int:
    """Programs of ``registers`` a thread and ``shared`` bytes that a multiprocessor holds at a time."""
    of_warp = -(-registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
    memory = SHARED_LIMIT.get(arch, SMALLEST_LIMIT) + PROGRAM_SHARED
    by_registers = SM_REGISTERS // (of_warp * num_warps)
    return min(by_registers, memory // (shared + PROGRAM_SHARED), SM_WARPS.get(arch, 48) // num_warps)


def fallbacks(launch: Launch) -> list[Launch]:
    """``launch`` and what to try, in turn, if the compiler or the driver refuses it."""
    chain = [launch]
    while (smaller := _smaller(chain[-1])) is not None:
        chain.append(smaller)
    return chain


def _smaller(launch: Launch) -> Launch | None:
    """Fewer stages, then fewer keys a step."""
    if launch.num_stages > 1:
        return replace(launch, num_stages=launch.num_stages - 1)
    if launch.block_n > 16:
        return replace(launch, block_n=launch.block_n // 2)
    return None


def _shared_estimate(launch: Launch, width: int, dtype: torch.dtype) -> int:
    """Bytes for the query tile, the stages of K and V, and the weights; the compiler decides in the end."""
    size = max(dtype.itemsize, 2)  # e4m3 is widened before it is multiplied
    stages = 2 * launch.num_stages * launch.block_n * width
    return size * (launch.block_m * width + stages + launch.block_m * launch.block_n)


@cache
def table() -> dict[tuple[str, int, int | None, str, str], Launch]:
    """The checked-in rows; query heads per KV head None: any number."""
    text = files("quire_kernels.gpu").joinpath("launch_table.json").read_text(encoding="utf-8")
    keys = ("arch", "head_dim", "group", "dtype", "regime")
    return {
        tuple(row[key] for key in keys): Launch(**{name: row[name] for name in Launch.__dataclass_fields__})
        for row in json.loads(text)["rows"]
    }
