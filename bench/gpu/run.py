"""Everything that only a GPU can show, in one call of less than nine minutes.

    python bench/gpu/run.py                     on a machine with a GPU
    python bench/gpu/run.py --device cpu        a dry run in Triton's interpreter: tiny sizes, no figure means anything

It needs this checkout, what such a machine has (Python, torch, Triton, transformers, pytest) and, where a package is
missing there, its wheel in ``.wheels`` (``bench/gpu/wheels.sh`` fetches them). Phases run one after another, each in a
process group of its own with a time budget; what fails or takes too long is recorded with its reason, and the rest
still runs. Together they end within ``TOTAL_S``: what comes last has what is left. The result is written after every
phase: into bench/results if a GPU was measured, and in any case into --out and $OUT where given. Exit code 0 only if no
phase failed; without a GPU and without --device cpu nothing runs.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.gpu.environment import NEEDED, prepare  # noqa: E402
from bench.gpu.report import markdown  # noqa: E402
from bench.report.figures import RESULTS, machine, versions  # noqa: E402 - found in the checkout

TAIL = 1500
TOTAL_S = 530.0  # on a GPU; a dry run may be on any machine


@dataclass(frozen=True, slots=True)
class Part:
    """One phase: a module, and its budget in seconds on a GPU and in the dry run.

    ``prints``: it takes no options and prints its figures. ``needs``: a package without which there is nothing to do.
    """

    name: str
    module: str
    budget_s: float
    dry_s: float
    prints: bool = False
    needs: str = ""


PHASES = (
    Part("probes", "bench.gpu.probe", 20, 40, prints=True),
    Part("kernels", "bench.gpu.kernels.kernel_tests", 140, 150),
    Part("engines", "bench.gpu.processes.engines", 150, 240),
    Part("timings", "bench.gpu.kernels.timings", 140, 120),
    Part("throughput", "bench.gpu.processes.throughput", 75, 150),
    Part("flashinfer", "bench.gpu.kernels.flashinfer_peer", 180, 1, needs="flashinfer"),
)


def gpu() -> dict[str, Any] | None:
    """The first GPU, or None."""
    import torch

    if not torch.cuda.is_available():
        return None
    properties = torch.cuda.get_device_properties(0)
    major, minor = torch.cuda.get_device_capability(0)
    return {
        "name": properties.name,
        "arch": f"sm_{major}{minor}",
        "memory_gib": round(properties.total_memory / 2**30, 1),
        "multiprocessors": properties.multi_processor_count,
        "l2_mib": round(properties.L2_cache_size / 2**20, 1),
        "cuda": torch.version.cuda,
    }


def run_phase(
    part: Part, device: str, env: dict[str, str], scratch: Path, left: float = float("inf")
) -> dict[str, Any]:
    """Run one phase, for at most ``left`` seconds, and say how it ended, with the figures it left."""
    if part.needs and (device == "cpu" or find_spec(part.needs) is None):
        reason = "there is nothing to run without a GPU" if device == "cpu" else f"{part.needs} is not installed"
        print(f"{part.name}: skipped: {reason}", flush=True)
        return {"state": "skipped", "reason": reason, "seconds": 0.0, "figures": {}}
    budget = min(left, part.budget_s if device == "cuda" else part.dry_s)
    out, log = scratch / f"{part.name}.json", scratch / f"{part.name}.log"
    command = [sys.executable, "-m", part.module]
    if not part.prints:
        command += [f"--device={device}", f"--seconds={budget}", f"--out={out}"]
    began, reason = time.monotonic(), ""
    print(f"{part.name} (at most {budget:.0f} s) ...", flush=True)
    with log.open("wb") as said, (scratch / f"{part.name}.printed").open("wb") as printed:
        process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=printed, stderr=said, start_new_session=True)
        try:
            process.wait(budget)
        except subprocess.TimeoutExpired:
            reason = f"not through within its {budget:.0f} s"
        finally:
            _end_group(process)
    figures = _figures(scratch / f"{part.name}.printed" if part.prints else out)
    if not reason and process.returncode:
        failures = figures.get("failures") or {}
        reason = "; ".join(f"{k}: {v}" for k, v in failures.items()) or log.read_text(errors="replace")[-TAIL:]
    state = "failed" if reason else "passed"
    seconds = round(time.monotonic() - began, 1)
    print(f"{part.name}: {state} after {seconds} s {reason[:TAIL]}", flush=True)
    return {"state": state, "reason": reason, "seconds": seconds, "figures": figures}


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """Whatever a phase left running goes with it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _figures(file: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found


def write_result(result: dict[str, Any], folders: list[Path], name: str) -> None:
    """The result so far, for programs and for people."""
    for folder in folders:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        (folder / f"{name}.md").write_text(markdown(result), encoding="utf-8")


def folders(device: str, out: Path | None) -> list[Path]:
    """Where results go; a dry run leaves nothing among the results."""
    found = [RESULTS] if device == "cuda" else []
    found += [out] if out else []
    return found + ([Path(os.environ["OUT"])] if os.environ.get("OUT") else [])


def main() -> int:
    """Run the phases; 0 if all passed, 1 if not, 3 without a GPU."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--only", nargs="+", choices=[part.name for part in PHASES], help="only these phases")
    parser.add_argument("--out", type=Path, help="a folder for the result, beside bench/results and $OUT")
    parser.add_argument("--wheels", type=Path, default=ROOT / ".wheels", help="carried wheels")
    options = parser.parse_args()
    began = time.monotonic()
    found = gpu() if options.device == "cuda" else None
    if options.device == "cuda" and found is None:
        print("no GPU: owed. Every figure of this run needs one; --device cpu shows that the run itself works.")
        return 3
    with tempfile.TemporaryDirectory(prefix="quire-gpu-run-") as scratch:
        env, missing = prepare(Path(scratch), options.wheels, options.device)
        result: dict[str, Any] = {
            "bench": "gpu",
            "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
            "dry_run": options.device == "cpu",
            "gpu": found,
            "machine": machine(),
            "versions": versions(NEEDED),
            "missing": missing,
            "phases": {},
        }
        if missing:
            print(f"not installed, and no wheel in {options.wheels}: {', '.join(missing)}", flush=True)
        for part in PHASES:
            if part.name in (options.only or part.name):
                left = began + TOTAL_S - time.monotonic() if found else float("inf")
                result["phases"][part.name] = run_phase(part, options.device, env, Path(scratch), max(1.0, left))
                write_result(result, folders(options.device, options.out), "gpu")
    return int(any(phase["state"] == "failed" for phase in result["phases"].values()))


if __name__ == "__main__":
    raise SystemExit(main())
