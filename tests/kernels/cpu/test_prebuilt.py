"""Libraries of the CPU kernels that were compiled ahead, for machines without a compiler."""

from __future__ import annotations

import ctypes
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from quire_kernels.cpu import host_library
from quire_kernels.cpu.prebuilt import BF16, LEVELS, V3, V4, file_of, find_prebuilt
from tests.support.host_library import need_host_library
from tests.support.repository import ROOT

need_host_library()
if platform.machine() != "x86_64":
    pytest.skip("nothing is compiled ahead for other processors", allow_module_level=True)


def machine(folder: Path, *processors: frozenset[str]) -> Path:
    """A ``/proc/cpuinfo`` of these processors."""
    file = folder / "cpuinfo"
    file.write_text("".join(f"processor : {n}\nflags : {' '.join(p)}\n\n" for n, p in enumerate(processors)))
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the script compiles."""
    made = tmp_path_factory.mktemp("kernels")
    subprocess.run([sys.executable, ROOT / "scripts/prebuild_kernels.py", made], check=True, capture_output=True)
    return made


def test_a_processor_takes_the_highest_level_it_has_every_feature_of(tmp_path: Path) -> None:
    """v4 with all features, v3 with one of v4 missing in one core, none with one of v3 missing or nothing known; and
    bfloat16 where it is had. A level that is forced is taken where the processor can run it."""
    folder = tmp_path / "kernels"
    folder.mkdir()
    for level in LEVELS:
        file_of(level, folder).touch()

    assert find_prebuilt(folder, machine(tmp_path, BF16)) == file_of("x86-64-v4-bf16", folder)
    assert find_prebuilt(folder, machine(tmp_path, BF16), "x86-64-v3") == file_of("x86-64-v3", folder)
    assert find_prebuilt(folder, machine(tmp_path, V3), "x86-64-v4") is None
    assert find_prebuilt(folder, machine(tmp_path, V4)) == file_of("x86-64-v4", folder)
    assert find_prebuilt(folder, machine(tmp_path, V4, V4 - {"avx512vl"})) == file_of("x86-64-v3", folder)
    assert find_prebuilt(folder, machine(tmp_path, V3 - {"fma"})) is None
    assert find_prebuilt(folder, tmp_path / "absent") is None


@pytest.mark.slow
def test_each_library_has_what_the_kernels_call(folder: Path) -> None:
    """Every level is compiled, and has the functions that the kernels call."""
    attention = [f"{kernel}_{dtype}" for kernel in ("decode", "tiles") for dtype in ("float32", "bfloat16")]
    names = (*attention, "linear", "panel", "norm", "rotate", "write")

    for level in LEVELS:
        library = ctypes.CDLL(str(file_of(level, folder)))  # to load is not to run: this works on any processor
        assert [name for name in names if not hasattr(library, f"quire_cpu_{name}")] == []


@pytest.mark.slow
def test_without_a_compiler_the_prebuilt_one_is_loaded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler on the path: what was compiled ahead is used; neither of them: the reason names both."""
    expected = find_prebuilt(folder)
    if expected is None:
        pytest.skip("this processor is below x86-64-v3")
    monkeypatch.setattr(shutil, "which", lambda _name: None)
    monkeypatch.setattr(host_library, "find_prebuilt", lambda **_: expected)

    assert host_library.load.__wrapped__()._name == str(expected)

    monkeypatch.setattr(host_library, "find_prebuilt", lambda **_: None)
    with pytest.raises(host_library.NoHostLibrary, match="none compiled ahead"):
        host_library.load.__wrapped__()
