"""Libraries that are loaded before an engine: found, tried, taken, and in effect."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from quire_services.config.settings import Config, EngineSettings
from quire_services.process.preload import environment, libraries
from quire_services.process.preload.environment import PRELOADED, preload_environment
from quire_services.process.preload.libraries import Library, find
from quire_services.stack.processes import Stack
from tests.support.repository import child_environ

pytestmark = pytest.mark.process
CPU = EngineSettings(attention="cpu")
OPENMP, TCMALLOC = "libiomp5.so", "libtcmalloc_minimal.so.4"
# Stand-ins: the first has a function of an OpenMP, the second hands on what it is asked for.
SOURCES = {
    OPENMP: "void GOMP_parallel(void) {}",
    TCMALLOC: "void *__libc_malloc(unsigned long); void *malloc(unsigned long size) { return __libc_malloc(size); }",
}
TELLS = """
import json, os, sys
from quire_services.daemons.engine_start import before_import
before_import(sys.argv[2:])
from quire_services.process.preload.environment import in_effect
said = {name: os.environ.get(name) for name in ("LD_PRELOAD", "ENGINE_PRELOADED", "KMP_BLOCKTIME")}
print(json.dumps(said | {"pid": os.getpid(), "in_effect": in_effect()}))
"""
COMPUTES = """
import json, os, sys, torch
from quire_kernels.cpu.linear import PackedWeight, Product, cpu_linear
from quire_services.process.preload.environment import drop_registration, in_effect
if sys.argv[1:] and (forked := os.fork()):
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(forked, 0)[1]))
torch.set_num_threads(2)
drop_registration(begin=True)
draw = torch.Generator().manual_seed(0)
x, weight = torch.randn(64, 512, generator=draw), torch.randn(512, 512, generator=draw)
before = len(os.listdir("/proc/self/task"))
torch.randn(1 << 20).exp_().sum()
by_torch = len(os.listdir("/proc/self/task"))
product = cpu_linear(x, [Product(PackedWeight.of(weight))], threads=2)[0]
after = len(os.listdir("/proc/self/task"))
found = {"in_effect": in_effect(), "tasks": [by_torch - before, after - by_torch], "bits": product.sum(1).tolist()}
mine = f"__KMP_REGISTERED_LIB_{os.getpid()}_"
found["registered"] = [name for name in os.listdir("/dev/shm") if name.startswith(mine)]
print(json.dumps(found), flush=True)
"""
Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """Compiles stand-ins into the ``lib`` of an environment, where alone libraries are looked for."""
    if shutil.which("cc") is None:
        pytest.skip("no C compiler")
    monkeypatch.setattr(libraries, "_system_folders", list)
    for name in ("LD_PRELOAD", "LD_LIBRARY_PATH", "KMP_BLOCKTIME", PRELOADED):
        monkeypatch.delenv(name, raising=False)

    def compiled(*names: str, folder: str = "one", **sources: str) -> Path:
        lib = tmp_path / folder / "lib"
        lib.mkdir(parents=True, exist_ok=True)
        for name in names:
            source = lib / f"{name}.c"
            source.write_text(sources.get("source", SOURCES[name]))
            subprocess.run(["cc", "-shared", "-fPIC", "-o", str(lib / name), str(source)], check=True)
        return lib.parent

    return compiled


def child(code: str, *arguments: str, **environ: str) -> dict[str, Any]:
    """What a program prints."""
    command = [sys.executable, "-P", "-c", code, *arguments]
    done = subprocess.run(
        command, env=child_environ(**environ), capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_what_is_there_is_found(make: Make) -> None:
    """Each kind by itself, and nothing where there is none."""
    assert find({}, make()) == []
    folder = make(OPENMP)
    assert find({}, folder) == [Library("OpenMP", str(folder / "lib" / OPENMP))]
    make(TCMALLOC)
    assert [Path(library.path).name for library in find({}, folder)] == [OPENMP, TCMALLOC]
    elsewhere = make(TCMALLOC, folder="two") / "lib"
    only = find({"LD_LIBRARY_PATH": f"/nowhere:{elsewhere}"}, make(folder="three"))
    assert only == [Library("allocator", str(elsewhere / TCMALLOC))]


def test_what_cannot_be_loaded_is_not_taken(make: Make) -> None:
    """Another architecture, no library at all, one that ends its process: the reason is told, the next one tried."""
    folder = make(OPENMP, TCMALLOC)
    library = folder / "lib" / OPENMP
    head = bytearray(library.read_bytes())
    head[18] = 0xB7 if head[18] != 0xB7 else 0x3E  # the machine it is for
    library.write_bytes(head)
    (folder / "lib" / TCMALLOC).write_bytes(b"no library")
    openmp, allocator = find({}, folder)
    assert "cannot be preloaded" in openmp.why_not
    assert "cannot be preloaded" in allocator.why_not
    assert preload_environment(CPU, {}) == {PRELOADED: ""}

    ends = make(TCMALLOC, folder="two", source="__attribute__((constructor)) void ends(void) { __builtin_trap(); }")
    whole = make(TCMALLOC, folder="three") / "lib"
    first, second = find({"LD_LIBRARY_PATH": str(whole)}, ends)
    assert "ends with -" in first.why_not
    assert second == Library("allocator", str(whole / TCMALLOC))


def test_a_library_of_that_name_with_nothing_in_it(make: Make) -> None:
    """A function has to come from it: not so of a stand-in, nor where an operator preloads another allocator."""
    folder = make(OPENMP, TCMALLOC, source="int nothing;")
    assert ["instead" in library.why_not for library in find({}, folder)] == [True, True]
    own = str(make(TCMALLOC, folder="two") / "lib" / TCMALLOC)
    (late,) = find({"LD_PRELOAD": own}, make(TCMALLOC, folder="three"))
    assert late.why_not == f"malloc comes from {own} instead"
    (apart,) = find({}, make(TCMALLOC, folder="with space"))
    assert "divides entries" in apart.why_not


def test_an_operators_own_stays(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """It comes first, what is found follows, and values of the environment are not replaced."""
    folder = make(OPENMP, TCMALLOC)
    monkeypatch.setattr(sys, "prefix", str(folder))
    own = make(OPENMP, folder="two", source="int nothing;") / "lib" / OPENMP
    taken = [str(folder / "lib" / name) for name in (OPENMP, TCMALLOC)]
    assert preload_environment(CPU, {"LD_PRELOAD": str(own), "KMP_BLOCKTIME": "7"}) == {
        "LD_PRELOAD": ":".join([str(own), *taken]), PRELOADED: ":".join(taken)
    }  # fmt: skip
    added = preload_environment(CPU, {"LD_PRELOAD": taken[1]})
    assert added["LD_PRELOAD"] == f"{taken[1]}:{taken[0]}"
    assert added["KMP_BLOCKTIME"] == "1"


def test_nothing_for_a_gpu_nor_where_it_is_switched_off(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """By setting, by the attention that is asked for, or by a device that is there."""
    monkeypatch.setattr(sys, "prefix", str(make(TCMALLOC)))
    monkeypatch.setattr(environment, "NVIDIA_DEVICE", tmp_path)
    for engine in (
        EngineSettings(),
        EngineSettings(attention="triton"),
        EngineSettings(attention="cpu", preload=False),
    ):
        assert preload_environment(engine, {}) == {PRELOADED: ""}
    assert preload_environment(CPU, {})[PRELOADED]
    monkeypatch.setattr(environment, "NVIDIA_DEVICE", tmp_path / "none")
    assert preload_environment(EngineSettings(), {})[PRELOADED]


def test_a_stack_starts_its_engines_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Engines, and nothing else of the stack; the rest of the environment is theirs as well."""
    monkeypatch.setenv("OF_THE_OPERATOR", "1")
    stack = Stack(Config(), tmp_path, preload={"LD_PRELOAD": "/lib/one.so", PRELOADED: "/lib/one.so"})
    (engine,) = stack.engines
    assert engine.environment["LD_PRELOAD"] == engine.environment[PRELOADED] == "/lib/one.so"
    assert engine.environment["OF_THE_OPERATOR"] == "1"
    assert all(PRELOADED not in other.environment for other in (stack.prepare, stack.kvstore, stack.gateway))
    assert "--preload=True" in engine.argv


def test_an_engine_that_is_started_alone(make: Make) -> None:
    """It becomes the same process anew with what is found, and only once; not if it is switched off."""
    lib = make(OPENMP, TCMALLOC) / "lib"
    found = child(TELLS, "engine", "--model=m", "--attention=cpu", LD_LIBRARY_PATH=str(lib))
    names = [Path(path).name for path in found["in_effect"]]
    assert names[0] == OPENMP
    assert found[PRELOADED] == found["LD_PRELOAD"] == ":".join(str(lib / name) for name in (OPENMP, TCMALLOC))
    assert found["KMP_BLOCKTIME"] == "1"
    off = child(TELLS, "engine", "--model=m", "--attention=cpu", "--preload=false", LD_LIBRARY_PATH=str(lib))
    assert (off["LD_PRELOAD"], off[PRELOADED], off["in_effect"]) == (None, "", [])
    other = child(TELLS, "serve", "--model=m", LD_LIBRARY_PATH=str(lib))
    assert (other["LD_PRELOAD"], other[PRELOADED]) == (None, None)


@pytest.mark.slow
def test_one_openmp_computes() -> None:
    """With Intel's preloaded torch's threads are our kernels', and bits the same, forked or not; no page is left."""
    taken = preload_environment(CPU, os.environ)
    if OPENMP not in taken[PRELOADED]:
        pytest.skip(f"no {OPENMP} on this machine")
    plain = child(COMPUTES, **{PRELOADED: "", "OPENBLAS_NUM_THREADS": "1"})
    assert plain["in_effect"] == []
    for forked in ((), ("forked",)):
        ours = child(COMPUTES, *forked, OPENBLAS_NUM_THREADS="1", **taken)
        assert Path(ours["in_effect"][0]).name == OPENMP
        assert ours["tasks"] == plain["tasks"] == [1, 0]
        assert ours["bits"] == plain["bits"]
        assert ours["registered"] == []
