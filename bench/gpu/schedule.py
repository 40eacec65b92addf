"""The steps of the GPU run, in the order of what would be missed most, and the claims that they show.

It begins with the least that can fail and adds: the machine, each kernel, one decode step, one engine, several. What
comes last has the time that the others left, and a second call goes on where the first one ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

HOLDS, FAILS, OPEN = "holds", "fails", "not shown"


@dataclass(frozen=True, slots=True)
class Planned:
    """One step: a module, what of it, and its limit in seconds on a GPU.

    ``dry``: whether a dry run has it, too. ``needs``: a package without which there is nothing to do.
    """

    name: str
    module: str
    limit_s: float
    what: str = ""
    dry: bool = True
    needs: str = ""


KERNELS, PROCESSES = "bench.gpu.kernels", "bench.gpu.processes"
STEPS = (
    Planned("probe", "bench.gpu.probe", 30),
    Planned("kernels", f"{KERNELS}.kernel_tests", 150),
    Planned("replays", f"{KERNELS}.replays", 60),
    Planned("bf16", f"{PROCESSES}.tokens", 90, "bfloat16"),
    Planned("e4m3", f"{PROCESSES}.tokens", 90, "e4m3"),
    Planned("launches", f"{KERNELS}.launches", 45, "candidates"),
    Planned("decode", f"{KERNELS}.timings", 45, "decode"),
    Planned("fp8", f"{KERNELS}.timings", 45, "fp8"),
    Planned("prefill", f"{KERNELS}.timings", 45, "prefill"),
    Planned("engines", f"{PROCESSES}.engines", 160, "deaths"),
    Planned("ipc", f"{PROCESSES}.engines", 75, "ipc", dry=False),
    Planned("throughput", f"{PROCESSES}.throughput", 90),
    Planned("weights", f"{PROCESSES}.weights", 90, needs="cuda"),
    Planned("host", f"{KERNELS}.timings", 45, "host"),
    Planned("shared", f"{KERNELS}.timings", 90, "shared"),
    Planned("sweep", f"{KERNELS}.launches", 120, "sweep"),
    Planned("flashinfer", f"{KERNELS}.flashinfer_peer", 180, needs="flashinfer", dry=False),
)
NAMES = tuple(step.name for step in STEPS)


@dataclass(frozen=True, slots=True)
class Claim:
    """Something that Quire says of itself, and what shows it: whole steps, or parts of one (``step:part``).

    ``bit``: in the exit status, where it is set unless the claim holds.
    """

    bit: int
    sentence: str
    shown_by: tuple[str, ...]

    def state(self, steps: Mapping[str, Any]) -> str:
        """HOLDS, FAILS or OPEN by the results of the steps."""
        states = [_state(steps, shown) for shown in self.shown_by]
        return FAILS if FAILS in states else OPEN if OPEN in states else HOLDS


CLAIMS = (
    Claim(1, "every kernel gives what its reference gives, in bfloat16 and e4m3 too", ("kernels",)),
    Claim(2, "decode steps are replayed as graphs, and replays give what launches give", ("replays", "bf16:replays")),
    Claim(4, "engines give transformers' tokens", ("bf16:tokens", "e4m3:tokens", "engines:tokens")),
    Claim(
        8,
        "engines share one pool of device memory, by descriptor and by IPC handle",
        ("engines:start on cuda-vmm-fd", "engines:tokens", "ipc:tokens"),
    ),
    Claim(
        16,
        "a killed engine or kvstore costs no answer and no block",
        ("engines:kills", "engines:late writes"),
    ),
    Claim(
        32,
        "every figure was taken, and the kernels reach their aims",
        ("launches", "decode", "fp8", "prefill", "throughput", "host", "shared", "sweep"),
    ),
    Claim(
        64,
        "engines of a GPU compute with one copy of the weights, which outlives its writer and the kvstore",
        ("weights:shared", "weights:restart", "weights:kvstore"),
    ),
)


def exit_status(steps: Mapping[str, Any], dry: bool) -> int:
    """The sum of the bits of claims that do not hold; in a dry run of those that fail, since it shows less."""
    return sum(claim.bit for claim in CLAIMS if claim.state(steps) in ((FAILS,) if dry else (FAILS, OPEN)))


def _state(steps: Mapping[str, Any], shown: str) -> str:
    name, _, part = shown.partition(":")
    step = steps.get(name)
    if step is None or step["state"] in ("skipped", "not run"):
        return OPEN
    if not part:
        return HOLDS if step["state"] == "passed" else FAILS
    if part in step["figures"].get("failures", {}):
        return FAILS
    if part in step["figures"]:
        return HOLDS
    return OPEN if step["state"] == "passed" else FAILS  # a step that died before this part has not shown it
