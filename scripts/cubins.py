"""Compile the kernels ahead of time for six GPU architectures, without a GPU, and judge what comes out.

For each architecture about 40 representative instantiations (``ALL=1``: every combination of dtype, head_dim,
query heads per KV head, regime and features) are compiled with the launch parameters that would be used there.
Registers and spilled bytes are what the ptxas in the Triton wheel says; shared memory is what Triton asks the driver
for; how memory is read, the disassembly tells (``machine_code``). It fails on a compile error, on spills in fp16 or
bf16 up to head_dim 128, on more shared memory than the chip has, and, where float32 is computed, on the chip's rough
powers of two. A row of the launch table is held to its programs a multiprocessor and its buffers of keys and values,
and fails on waits that leave no load under way, narrow copies, or byte reads of shared memory.

Arguments come from the launchers themselves, on tensors without memory, so that what is compiled is what would be
launched. Results are kept by the hash of sources, arguments and Triton's version, in CUBINS_CACHE (default: .cubins).

Usage: python scripts/cubins.py [--arch sm_90 ...] [--only decode ...] [--all]
       python scripts/cubins.py --arch sm_90 --only decode --launch 16 64 4 5 168 3 2   another row than the table's
"""

from __future__ import annotations

import argparse
import hashlib
import io
import json
import os
import re
import sys
import time
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stdout
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

CACHE = Path(os.environ.get("CUBINS_CACHE") or Path(__file__).resolve().parents[1] / ".cubins")
os.environ["TRITON_CACHE_DIR"] = str(CACHE / "triton")
os.environ["TRITON_DUMP_PTXAS_LOG"] = os.environ["TRITON_ALWAYS_COMPILE"] = "1"  # a cached cubin has no log
os.environ.pop("TRITON_INTERPRET", None)
os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # the default; Triton 3.9 warns unless told

sys.path.insert(0, str(Path(__file__).resolve().parent))  # make sets PYTHONSAFEPATH

import torch  # noqa: E402
import triton  # noqa: E402
from machine_code import disassemble, kv_buffers, memory_facts  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

from quire_kernels.features import Features  # noqa: E402
from quire_kernels.gpu import copy_blocks, merge_partials, paged_attention, write_kv  # noqa: E402
from quire_kernels.gpu.device_work import Capacity, DeviceWork  # noqa: E402
from quire_kernels.gpu.launch_table import SHARED_LIMIT, Launch, launch_for, programs_per_sm, table  # noqa: E402
from quire_kernels.gpu.layers import gate, norm, rotate  # noqa: E402
from quire_kernels.gpu.sampling import nucleus  # noqa: E402
from quire_kernels.gpu.tiling import REGIMES  # noqa: E402

META = torch.device("meta")
FILES = (Path(__file__), Path(__file__).with_name("machine_code.py"))
OURS = hashlib.sha256(b"".join(f.read_bytes() for f in FILES)).hexdigest()  # a result means what these files say
COPY_BYTES = 16  # the widest copy for a thread
MAY_SPILL = {"all": 128}  # bytes, stored and loaded; no model asks for all features at once
ROWS, BLOCKS, KV_HEADS = 64, 4096, 8
SMALL = ("write_kv", "merge", "copy", "norm", "gate", "rotate", "nucleus")  # kernels beside attention
FEATURES = {"": (), "window": ("window",), "all": ("window", "softcap", "sinks", "slopes")}
TYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16", torch.float8_e4m3fn: "fp8e4nv"}
TYPES |= {torch.int16: "i16", torch.int32: "i32", torch.int64: "i64", torch.uint8: "u8"}


@dataclass(frozen=True, slots=True)
class Instance:
    """One instantiation of one kernel; ``op`` is a regime of paged_attention or another kernel's name."""

    op: str
    dtype: str = "bfloat16"
    head_dim: int = 128
    group: int = 4
    features: str = ""
    block_size: int = 16
    row: Launch | None = None  # instead of the table's

    def launch(self, arch: str) -> Launch:
        """Launch parameters of a regime of paged_attention."""
        return self.row or launch_for(arch, self.head_dim, self.group, getattr(torch, self.dtype), self.op)

    def tabled(self, arch: str) -> bool:
        """Whether the launch is a row, and held to it."""
        return self.op in REGIMES and (self.row is not None or self.launch(arch) in table().values())

    @property
    def exact(self) -> bool:
        """Whether it works in float32, and powers of two must not be rough."""
        return self.op == "merge" or (self.op in REGIMES and self.dtype == "float32")

    @property
    def fp8(self) -> bool:
        """e4m3 keys and values, bf16 queries."""
        return self.dtype == "float8_e4m3fn"

    @property
    def must_not_spill(self) -> bool:
        """Whether spilled registers are an error."""
        return self.dtype in ("float16", "bfloat16") and self.head_dim <= 128

    def __str__(self) -> str:
        return f"{self.op:8} {self.dtype:13} d{self.head_dim:<3} g{self.group:<2} b{self.block_size} {self.features}"


def representative() -> list[Instance]:
    """What most models use, and the corners."""
    common = [Instance(r, t, d) for r, t, d in product(REGIMES, ("float16", "bfloat16"), (64, 128))]
    widths = [Instance(r, head_dim=d) for r, d in product(REGIMES, (48, 80, 96, 256))]
    single = [Instance(r, "float32", d) for r, d in product(REGIMES, (64, 128))]
    fp8 = [Instance(r, "float8_e4m3fn") for r in REGIMES]
    features = [Instance("decode", features="all"), Instance("prefill", features="all")]
    features += [Instance("prefill", "float16", features="window")]
    heads = [Instance("decode", group=1), Instance("decode", group=32), Instance("decode", block_size=64)]
    return common + widths + single + fp8 + features + heads + _small(("bfloat16",), (128,))


def everything() -> list[Instance]:
    """Every combination that the launchers accept and that differs in its code."""
    dtypes, widths = ("float16", "bfloat16", "float32", "float8_e4m3fn"), (48, 64, 80, 96, 128, 256)
    large = product(REGIMES, dtypes, widths, (1, 4, 8, 16), FEATURES, (16,))
    return [Instance(*values) for values in large] + _small(dtypes[:3], widths)


def _small(dtypes: tuple[str, ...], widths: tuple[int, ...]) -> list[Instance]:
    """The kernels beside attention."""
    pairs = product(SMALL, dtypes, widths)
    return [*(Instance(*values) for values in pairs), *(Instance(op, "float8_e4m3fn") for op in ("write_kv", "copy"))]


def _layer(op: str, rows: torch.Tensor) -> tuple[Any, dict[str, Any], dict[str, int]]:
    """Norm, gate and rotate, of ``rows`` [T, heads, d]."""
    flat, warps = rows.flatten(1), {"num_warps": 4}
    if op == "norm":
        return norm._kernel, *norm.norm_arguments(flat, flat[0], flat, 1e-6, "rounded")
    if op == "gate":
        return gate._kernel, gate.gate_arguments(flat, flat, flat, "silu"), warps
    query, key = rows.transpose(0, 1), rows[:, :KV_HEADS].transpose(0, 1)
    return (
        rotate._kernel,
        rotate.rotate_arguments(query, key, rows[:, 0].clone(), rows[:, 0].clone(), rows, rows),
        warps,
    )


def tensor(*shape: int, dtype: torch.dtype) -> torch.Tensor:
    """A tensor without memory."""
    return torch.empty(shape, dtype=dtype, device=META)


def build(instance: Instance, arch: str) -> tuple[Any, dict[str, Any], dict[str, int]]:
    """Kernel, arguments by name, and options of a launch."""
    kv = getattr(torch, instance.dtype)
    dtype = torch.bfloat16 if instance.fp8 else kv
    keys = tensor(KV_HEADS, BLOCKS, instance.block_size, instance.head_dim, dtype=kv)
    scale = tensor(KV_HEADS, dtype=torch.float32) if instance.fp8 else None
    count, index = tensor(1, dtype=torch.int32), partial(tensor, dtype=torch.int32)
    heads = KV_HEADS * instance.group
    out = tensor(ROWS, heads, instance.head_dim, dtype=dtype)
    if instance.op == "nucleus":
        flat, line = tensor(ROWS, BLOCKS, dtype=torch.float32), tensor(ROWS, dtype=torch.float32)
        settings, tokens = tensor(ROWS, 4, dtype=torch.float32), tensor(ROWS, dtype=torch.int64)
        return nucleus._kernel, nucleus.nucleus_arguments(flat, index(ROWS), settings, line, tokens), {"num_warps": 8}
    if instance.op in ("norm", "gate", "rotate"):
        return _layer(instance.op, out)
    parts = tensor(ROWS, heads, instance.head_dim, dtype=torch.float32), tensor(ROWS, heads, dtype=torch.float32)
    if instance.op == "write_kv":
        new = tensor(KV_HEADS, ROWS, instance.head_dim, dtype=dtype)
        arguments = write_kv.write_arguments(new, new, keys, keys, index(ROWS), scale, scale)
        return write_kv._kernel, arguments, {"num_warps": 4}
    if instance.op == "copy":
        arguments = copy_blocks.copy_arguments(keys[None, None], index(ROWS, 3), count)
        return copy_blocks._kernel, arguments, {"num_warps": 4}
    if instance.op == "merge":
        sinks = tensor(heads, dtype=dtype)
        lists = index(ROWS), index(ROWS + 1), index(ROWS)
        return (
            merge_partials._kernel,
            merge_partials.merge_arguments(*parts, out, *lists, count, sinks),
            {"num_warps": 4},
        )
    launch = instance.launch(arch)
    work = DeviceWork(Capacity(*([ROWS] * 8)), META)
    work.window = 1024 if "window" in FEATURES[instance.features] else None
    query = tensor(ROWS, heads, instance.head_dim, dtype=dtype).transpose(0, 1)
    features = Features(
        scale=instance.head_dim**-0.5,
        window=work.window,
        softcap=50.0 if "softcap" in FEATURES[instance.features] else None,
        sinks=tensor(heads, dtype=dtype) if "sinks" in FEATURES[instance.features] else None,
        slopes=tensor(heads, dtype=torch.float32) if "slopes" in FEATURES[instance.features] else None,
        k_scale=scale,
        v_scale=scale,
    )
    arguments = paged_attention.attention_arguments(query, keys, keys, work, instance.op, launch, features, out, *parts)
    return paged_attention._kernel, arguments, launch.options


def source(kernel: Any, arguments: dict[str, Any]) -> ASTSource:
    """The kernel specialised for these arguments, as Triton's launcher would do it."""
    signature, constants, attributes = {}, {}, {}
    for position, parameter in enumerate(kernel.params):
        name, value = parameter.name, arguments[parameter.name]
        if parameter.is_constexpr or value is None or (type(value) is int and value == 1):
            signature[name], constants[name] = "constexpr", value
        elif isinstance(value, torch.Tensor):
            signature[name] = "*" + TYPES[value.dtype]
            attributes[(position,)] = [["tt.divisibility", 16]]
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
            if value % 16 == 0:
                attributes[(position,)] = [["tt.divisibility", 16]]
        else:
            signature[name] = "fp32"
    return ASTSource(kernel, signature, constants, attributes)


def compile_one(task: tuple[str, Instance]) -> dict[str, Any]:
    """Compile one instance, or take what is known of it: registers, spills, shared memory, seconds or an error."""
    arch, instance = task
    began = time.monotonic()
    kernel, arguments, options = build(instance, arch)
    specialised = source(kernel, arguments)
    text = f"{OURS} {triton.__version__} {arch} {options} {specialised.hash()}"
    known = CACHE / f"{hashlib.sha256(text.encode()).hexdigest()}.json"
    if known.exists():
        return dict(json.loads(known.read_text()), cached=True)
    result: dict[str, Any] = {"arch": arch, **asdict(replace(instance, row=None)), **options, "cached": False}
    result |= {k: arguments[k] for k in ("BLOCK_M", "BLOCK_N") if k in arguments}
    log = io.StringIO()
    try:
        with redirect_stdout(log):
            compiled = triton.compile(specialised, target=GPUTarget("cuda", int(arch[3:]), 32), options=options)
    except Exception as error:  # whatever the compiler raises is this instance's result
        return result | {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    result |= {"shared": compiled.metadata.shared, **resources(log.getvalue())}
    if instance.op in REGIMES:
        used = (options["num_warps"], result["registers"], result["shared"])
        result |= {"per_sm": programs_per_sm(arch, *used), "kv_buffers": kv_buffers(compiled.asm["ttgir"])}
    if instance.tabled(arch) or instance.exact:
        result |= memory_facts(disassemble(compiled.asm["cubin"]))
    result["seconds"] = round(time.monotonic() - began, 2)
    known.write_text(json.dumps(result))
    return result


def resources(log: str) -> dict[str, int]:
    """Registers of a thread, and bytes spilled to its stack (stores and loads), as ptxas -v says."""
    registers = re.search(r"Used (\d+) registers", log)
    spills = re.search(r"(\d+) bytes spill stores, (\d+) bytes spill loads", log)
    if registers is None or spills is None:
        raise RuntimeError(f"ptxas said: {log}")
    return {"registers": int(registers[1]), "spilled": int(spills[1]) + int(spills[2])}


def faults(result: dict[str, Any], instance: Instance) -> list[str]:
    """Why this result fails."""
    if "error" in result:
        return [result["error"]]
    found = []
    if instance.must_not_spill and result["spilled"] > MAY_SPILL.get(instance.features, 0):
        found.append(f"{result['spilled']} bytes of spilled registers")
    if result["shared"] > SHARED_LIMIT[result["arch"]]:
        found.append(f"{result['shared']} bytes of shared memory, the chip has {SHARED_LIMIT[result['arch']]}")
    if instance.exact and result["ex2"]:
        found.append(f"{result['ex2']} rough powers of two")
    if instance.tabled(result["arch"]):
        found += row_faults(result, instance.launch(result["arch"]))
    return found


def row_faults(result: dict[str, Any], launch: Launch) -> list[str]:
    """What a row of the launch table promises and the compiled kernel does not keep."""
    found = []
    for name in ("per_sm", "kv_buffers"):
        if result[name] < getattr(launch, name):
            found.append(f"{name} {result[name]}, the row says {getattr(launch, name)}")
    # With tcgen05 (tiles of 64 rows and more) waits are spread over several loops; there the IR has to do.
    tcgen05 = result["arch"] == "sm_100" and launch.block_m >= 64
    if launch.kv_buffers > 1 and not result["under_way"] and not tcgen05:
        found.append("the hot loop waits for every load")
    if result["copy_bytes"] < COPY_BYTES:
        found.append(f"copies of {result['copy_bytes']} bytes into shared memory")
    if result["byte_reads"]:
        found.append(f"{result['byte_reads']} byte reads of shared memory")
    return found


def main() -> int:
    """Compile, print a table and the faults; 1 if there are any."""
    parser = argparse.ArgumentParser(description="compile the kernels for all architectures, without a GPU")
    parser.add_argument("--arch", nargs="+", choices=SHARED_LIMIT, default=list(SHARED_LIMIT))
    parser.add_argument("--all", action="store_true", default=os.environ.get("ALL") == "1")
    parser.add_argument("--only", nargs="+", choices=(*REGIMES, *SMALL), help="only these kernels")
    parser.add_argument(
        "--launch", nargs=7, type=int, metavar=tuple(Launch.__dataclass_fields__), help="judge this row"
    )
    options = parser.parse_args()
    CACHE.mkdir(exist_ok=True)
    instances = [i for i in (everything() if options.all else representative()) if i.op in (options.only or i.op)]
    if options.launch:
        instances = [Instance(op, row=Launch(*options.launch)) for op in options.only or REGIMES]
    tasks = [(a, i) for a in options.arch for i in instances if not (i.fp8 and a in ("sm_80", "sm_86"))]
    began, failed, compiled = time.monotonic(), 0, 0
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        for (arch, instance), result in zip(tasks, pool.map(compile_one, tasks, chunksize=4), strict=True):
            compiled += not result["cached"]
            wrong = faults(result, instance)
            failed += bool(wrong)
            tile = f"{result['BLOCK_M']}x{result['BLOCK_N']}" if "BLOCK_M" in result else ""
            shape = f"{tile:8} w{result['num_warps']} s{result.get('num_stages', '-')}"
            numbers = "" if "error" in result else (
                f"{result['registers']:4} registers {result['spilled']:5} spilled {result['shared']:7} shared"
            )  # fmt: skip
            if instance.tabled(arch) and "copy_bytes" in result:
                numbers += (
                    f" {result['per_sm']} an SM, {result['kv_buffers']} buffers, {result['byte_reads']} byte reads"
                )
            print(f"{arch:6} {instance!s:44} {shape:15} {numbers} {'; '.join(wrong)}", flush=True)
    spent = time.monotonic() - began
    counts = f"{len(tasks)} instantiations, {compiled} compiled now, {failed} failed"
    print(f"cubins: Triton {triton.__version__}: {counts}, {spent:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
