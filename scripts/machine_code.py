"""What a kernel's machine code does with memory, read from its disassembly.

Owns the reading of NVIDIA's SASS, as nvdisasm (it comes with Triton) prints it. A *hot loop* multiplies matrices and
contains no other loop. Keys and values come into shared memory by asynchronous copies in groups; a wait in a hot loop
that lets groups stay under way means that the next step's keys arrive while this one's are multiplied. A wait for all
means that nothing overlaps, however many stages were asked for. How many buffers there are stands in Triton's IR.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path
from typing import Any

LABEL = re.compile(r"^(\.L\w+):")
MULTIPLIES = re.compile(r"\b(HMMA|HGMMA|QGMMA|IMMA|FFMA|UTC\w*MMA)\b")
TABLE_BYTES = 4  # block ids are copied one by one


def disassemble(cubin: bytes) -> str:
    """The text of a cubin."""
    import triton

    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "kernel.cubin"
        file.write_bytes(cubin)
        command = [triton.knobs.nvidia.nvdisasm.path, "-c", str(file)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def hot_loops(sass: str) -> list[list[str]]:
    """Instructions of each hot loop."""
    lines, labels, found = [], {}, []
    for line in sass.splitlines():
        if label := LABEL.match(line):
            labels[label[1]] = len(lines)
        elif ";" in line:
            lines.append(line.split("*/", 1)[-1].strip())
            back = re.search(r"\bBRA\b.*\((\.L\w+)\)", line)
            if back and back[1] in labels:
                found.append((labels[back[1]], len(lines)))
    inner = [a for a in found if not any(a[0] <= b[0] and b[1] <= a[1] and a != b and _hot(lines, b) for b in found)]
    return [lines[begin:end] for begin, end in inner if _hot(lines, (begin, end))]


def _hot(lines: list[str], span: tuple[int, int]) -> bool:
    return any(MULTIPLIES.search(line) for line in lines[span[0] : span[1]])


def memory_facts(sass: str) -> dict[str, Any]:
    """How keys and values are read, and powers of two taken.

    ``copy_bytes``: the least that one copy into shared memory moves for a thread, tables aside; 0 without such copies.
    ``under_way``: groups of copies that the waits of every hot loop leave under way. ``byte_reads``: reads of a single
    byte of shared memory in hot loops. ``loop``: instructions of the first hot loop, which needs no mask. ``ex2``:
    powers of two by the chip's own, rough instruction, anywhere.
    """
    loops = hot_loops(sass)
    widths = [int(bits or 32) // 8 for bits in re.findall(r"\bLDGSTS\.E(?:\.BYPASS)?(?:\.(\d+))?[ .]", sass)]
    waits = [[int(n, 16) for n in re.findall(r"DEPBAR\.LE SB0, (0x[0-9a-f]+)", "\n".join(loop))] for loop in loops]
    return {
        "copy_bytes": min((w for w in widths if w > TABLE_BYTES), default=0),
        "under_way": min((min(found, default=0) for found in waits), default=0),
        "byte_reads": sum(len(re.findall(r"\bLDS\.[US]8\b", "\n".join(loop))) for loop in loops),
        "loop": len(loops[0]) if loops else 0,
        "ex2": len(re.findall(r"\bMUFU\.EX2\b", sass)),
    }


def kv_buffers(ttgir: str) -> int:
    """Buffers that Triton's IR keeps for each tile of keys or values in shared memory; 0 if it keeps none."""
    shapes = re.findall(r"ttg\.local_alloc : \(\) -> !ttg\.memdesc<(\d+)x\d+x\d+x\w+,.*mutable", ttgir)
    return min((int(first) for first in shapes), default=0)
