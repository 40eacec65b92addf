"""float16 on processors that have no arithmetic for it: what is computed in instead, and what that costs, in words.

Without such instructions oneDNN neither packs float16 nor multiplies it in vectors: a prompt takes eight times as long
as in float32. The same weights in bfloat16 take the same bytes and lose 3 of their 11 bits; nothing overflows, for its
range is the wider one. What the processor can is read from the system, so that a process without torch can choose.
"""

from __future__ import annotations

from pathlib import Path

FLOAT16, INSTEAD = "float16", "bfloat16"
FEATURES = {"avx512_fp16", "asimdhp"}  # x86's name and ARM's
COST = f"{INSTEAD}, of the same size with 3 bits less precision, or float32, exact and twice the size"
REFUSED = (
    "this processor has no arithmetic for float16, which takes many times as long as bfloat16 here: set"
    f" kvstore.dtype = {COST}"
)
CHOSEN = (
    f"the checkpoint is in {FLOAT16}, for which this processor has no arithmetic: computed in {INSTEAD}, of the same"
    " size with 3 bits less precision; --dtype float32 is exact and takes twice the size"
)


def has_float16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether every processor of this machine computes in float16, as far as the system tells."""
    try:
        lines = cpuinfo.read_text().splitlines()
    except OSError:
        return False
    each = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return bool(each) and all(FEATURES & features for features in each)
