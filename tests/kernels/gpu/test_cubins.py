"""The ahead-of-time compiler, in a process of its own: there, kernels are compiled and not interpreted."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.support.repository import ROOT

FAULTS = """
from cubins import Instance, faults
from quire_kernels.gpu.launch_table import Launch
good = {"arch": "sm_89", "spilled": 0, "shared": 101376}
assert faults(good, Instance("copy")) == []
assert faults(good | {"spilled": 8}, Instance("copy")) == ["8 bytes of spilled registers"]
assert faults(good | {"spilled": 8}, Instance("copy", head_dim=256)) == []
assert "101377 bytes of shared memory" in faults(good | {"shared": 101377}, Instance("copy"))[0]
assert faults({"error": "broken"}, Instance("copy")) == ["broken"]
assert faults(good | {"spilled": 128}, Instance("write_kv", features="all")) == []
row = Instance("decode", row=Launch(16, 64, 4, 5, 168, per_sm=2, kv_buffers=2))
good |= {"per_sm": 2, "kv_buffers": 2, "under_way": 4, "copy_bytes": 16, "byte_reads": 0}
assert faults(good, row) == []
for name, bad in {"per_sm": 1, "kv_buffers": 1, "under_way": 0, "copy_bytes": 8, "byte_reads": 1}.items():
    assert len(faults(good | {name: bad}, row)) == 1, name
assert faults(good | {"ex2": 3}, Instance("merge")) == ["3 rough powers of two"]
"""
FACTS = """
from machine_code import hot_loops, kv_buffers, memory_facts
text = (
    ".L_x_9:\\n/*0*/ LDGSTS.E [R1], desc[UR4][R2.64] ;\\n/*1*/ LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64] ;\\n"
    ".L_x_1:\\n/*2*/ DEPBAR.LE SB0, 0x2 ;\\n/*3*/ LDS.U8 R1, [R2] ;\\n/*4*/ HMMA.16816.F32.BF16 R1, R2, R3, R4 ;\\n"
    "/*5*/ @P0 BRA `(.L_x_1) ;\\n/*6*/ LDS.U8 R1, [R2] ;\\n/*7*/ @P1 BRA `(.L_x_9) ;\\n"
)
assert [len(loop) for loop in hot_loops(text)] == [4]
assert memory_facts(text) == {"copy_bytes": 16, "under_way": 2, "byte_reads": 1, "loop": 4, "ex2": 0}
assert memory_facts(text.replace("BYPASS.128", "64"))["copy_bytes"] == 8
assert memory_facts(text.replace("0x2", "0x0"))["under_way"] == 0
assert memory_facts(text + "/*8*/ MUFU.EX2 R1, R2 ;\\n")["ex2"] == 1
line = "%k = ttg.local_alloc : () -> !ttg.memdesc<{}x128x64xbf16, #shared, #smem, mutable> loc(#l)"
assert kv_buffers(line.format(2) + "\\n" + line.format(3)) == 2
assert kv_buffers("%q = ttg.local_alloc %x : (tensor<16x128xbf16>) -> !ttg.memdesc<16x128xbf16, #s, #smem>") == 0
"""


def python(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter without the tests' setting of Triton."""
    env = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"} | {"PYTHONPATH": str(ROOT / "scripts")}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=env, capture_output=True, text=True, timeout=120)


def test_kernels_compile_without_a_gpu() -> None:
    """The copy kernel becomes machine code of an architecture that is not here, and its registers are known."""
    result = python("scripts/cubins.py", "--arch", "sm_80", "--only", "copy")

    assert result.returncode == 0, result.stdout + result.stderr
    assert " registers     0 spilled" in result.stdout
    assert "1 instantiations" in result.stdout
    assert " 0 failed" in result.stdout


def test_spills_and_oversized_tiles_fail() -> None:
    """Spills in a common kernel, too much shared memory and a compile error are faults; wide heads may spill."""
    result = python("-c", FAULTS)

    assert result.returncode == 0, result.stderr


def test_rows_are_held_to_their_machine_code() -> None:
    """Programs, buffers, overlapping waits, wide copies and no byte reads: each that a row lacks is a fault."""
    result = python("-c", FAULTS)

    assert result.returncode == 0, result.stderr


def test_memory_is_read_from_the_machine_code() -> None:
    """Copies, waits and byte reads are counted in loops that multiply; buffers stand in the compiler's own words."""
    result = python("-c", FACTS)

    assert result.returncode == 0, result.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("16 64 4 2 255 2 2", "kv_buffers 1, the row says 2; the hot loop waits for every load"),
        ("16 64 4 5 64 2 2", "bytes of spilled registers"),
        ("16 64 4 5 255 3 2", "per_sm 2, the row says 3"),
        ("16 64 4 5 255 2 2", ""),
    ],
)
def test_planted_rows_are_caught(row: str, fault: str) -> None:
    """Decode rows of two stages, too few registers or too many programs fail when compiled; a sound one passes."""
    result = python("scripts/cubins.py", "--arch", "sm_90", "--only", "decode", "--launch", *row.split())

    assert fault in result.stdout, result.stdout + result.stderr
    assert result.returncode == (1 if fault else 0), result.stdout
