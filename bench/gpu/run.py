"""Everything that only a GPU can show, for somebody who has one for fifteen minutes.

    python bench/gpu/run.py                        on a machine with a GPU: all steps that fit in --seconds
    python bench/gpu/run.py --from decode          goes on, and keeps what the steps before found
    python bench/gpu/run.py --again                those that failed, and those that have not run
    python bench/gpu/run.py --device cpu           a dry run in Triton's interpreter; no figure means anything

It needs this checkout, what such a machine has (Python, torch, Triton, transformers, pytest) and, where a package is
missing there, its wheel in ``.wheels`` (``bench/gpu/wheels.sh`` fetches them). Steps (``schedule.py``) run one after
another, each a process group of its own with a limit; what fails is recorded, and the rest still runs.

After every step the folder of results (--out, else $OUT, else .gpu-run) has ``summary.md``, to be read in a minute,
``gpu.md`` with all tables, ``gpu.json``, and in a folder for each step everything that its processes said.

Exit status: the sum of the bits of claims that do not hold (``schedule.CLAIMS``; the summary lists them), so 0 if all
do; 200 without a GPU, 202 for a wrong command line.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from bench.gpu.environment import NEEDED, Prepared, prepare  # noqa: E402 - found in the checkout
from bench.gpu.report import markdown, summary  # noqa: E402
from bench.gpu.schedule import NAMES, STEPS, Planned, exit_status  # noqa: E402
from bench.gpu.step_process import LOG, run_step  # noqa: E402
from bench.report.figures import RESULTS, machine, versions  # noqa: E402

TOTAL_S = 560.0  # such a machine is often lent for commands of ten minutes
DRY_TIMES = 10  # as long for a step of a dry run, on any machine with anything else to do
LEAST_S = 15.0  # below which no step is begun
FACTS_S = 60.0
NOT_RUN: dict[str, Any] = {"state": "not run", "reason": "", "seconds": 0.0, "figures": {}}
NO_GPU, USAGE = 200, 202  # beside the sums of bits, and beside 128 + signal


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        """Two would be a claim."""
        self.print_usage(sys.stderr)
        self.exit(USAGE, f"{self.prog}: {message}\n")


def options() -> argparse.Namespace:
    """The command line."""
    parser = _Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--from", dest="begin", choices=NAMES, metavar="STEP", help=f"one of {', '.join(NAMES)}")
    which.add_argument("--only", nargs="+", choices=NAMES, metavar="STEP", help="only these steps")
    which.add_argument("--again", action="store_true", help="what failed, and what has not run")
    parser.add_argument("--seconds", type=float, default=TOTAL_S, help="in all (default: %(default).0f; on a GPU)")
    parser.add_argument("--limit", type=float, default=0, help="seconds for each step, instead of its own")
    parser.add_argument("--out", type=Path, help="the folder of results")
    parser.add_argument(
        "--earlier", type=Path, help="gpu.json of the call before (default: that of the folder of results)"
    )
    parser.add_argument("--wheels", type=Path, default=ROOT / ".wheels", help="carried wheels")
    return parser.parse_args()


def gpu(env: dict[str, str]) -> tuple[dict[str, Any] | None, str]:
    """The first GPU as PyTorch sees it, or None; and what else it said, of failures above all."""
    command = [sys.executable, "-m", "bench.gpu.torch_facts"]
    try:
        done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=FACTS_S, check=False)
        return json.loads((done.stdout.splitlines() or ["null"])[-1]), done.stderr
    except (OSError, subprocess.TimeoutExpired, ValueError) as error:
        return None, str(error)


def chosen(asked: argparse.Namespace, earlier: dict[str, Any]) -> list[Planned]:
    """The steps of this call."""
    if asked.only:
        return [step for step in STEPS if step.name in asked.only]
    if asked.begin:
        return list(STEPS[NAMES.index(asked.begin) :])
    if asked.again:
        return [s for s in STEPS if earlier.get(s.name, {}).get("state") not in ("passed", "skipped")]
    return list(STEPS)


def earlier_steps(asked: argparse.Namespace, out: Path) -> dict[str, Any]:
    """What the call before found, where this one goes on."""
    if not (asked.begin or asked.again or asked.only):
        return {}
    with contextlib.suppress(OSError, ValueError, KeyError):
        found: dict[str, Any] = json.loads((asked.earlier or out / "gpu.json").read_text())["steps"]
        return found
    return {}


def write_result(result: dict[str, Any], out: Path) -> None:
    """The result so far, for programs and for people; a measurement goes among the results of all benches, too."""
    for folder in [out] if result["dry_run"] else [out, RESULTS]:
        with contextlib.suppress(OSError):  # a checkout may be read-only
            (folder / "gpu.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            (folder / "gpu.md").write_text(markdown(result), encoding="utf-8")
    (out / "summary.md").write_text(summary(result), encoding="utf-8")


def begin(asked: argparse.Namespace, prepared: Prepared, found: dict[str, Any] | None, out: Path) -> dict[str, Any]:
    """The result before any step of this call."""
    wheels = {"state": "passed", "reason": "", "seconds": 0.0, "figures": {}}
    if prepared.refused:
        lasts = [f"{name}: {said.splitlines()[-1]}" for name, said in prepared.refused.items()]
        reason = "\n".join([*lasts, *prepared.refused.values()])
        wheels |= {"state": "failed", "reason": reason}
        (out / "wheels").mkdir(exist_ok=True)
        (out / "wheels" / LOG).write_text(reason + "\n")
        print(f"wheels: pip would not install {', '.join(prepared.refused)}", flush=True)
    if prepared.missing:
        print(f"not installed, and no wheel in {asked.wheels}: {', '.join(prepared.missing)}", flush=True)
    return {
        "bench": "gpu",
        "date": time.strftime("%Y-%m-%d %H:%M:%S %Z"),
        "dry_run": asked.device == "cpu",
        "gpu": found,
        "machine": machine(),
        "versions": versions(NEEDED),
        "missing": list(prepared.missing),
        "steps": {**earlier_steps(asked, out), "wheels": wheels},
    }


def main() -> int:
    """Run the steps; see the module for the exit status."""
    began, asked = time.monotonic(), options()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # the step under way goes too
    out = (asked.out or Path(os.environ.get("OUT") or ROOT / ".gpu-run")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    dry = asked.device == "cpu"
    with tempfile.TemporaryDirectory(prefix="quire-gpu-") as scratch:
        prepared = prepare(Path(scratch), asked.wheels, asked.device)
        found, said = (None, "") if dry else gpu(prepared.env)
        if not dry and found is None:
            print("no GPU: owed. Every figure of this run needs one; --device cpu shows that the run itself works.")
            print(said.strip(), file=sys.stderr)
            return NO_GPU
        result = begin(asked, prepared, found, out)
        write_result(result, out)
        steps = chosen(asked, result["steps"])
        for planned in steps:
            left = float("inf") if dry else began + asked.seconds - time.monotonic()
            if left >= LEAST_S:
                limit = min(left, asked.limit or planned.limit_s * (DRY_TIMES if dry else 1))
                result["steps"][planned.name] = run_step(planned, asked.device, prepared.env, out / planned.name, limit)
            elif planned.name not in result["steps"]:
                result["steps"][planned.name] = {**NOT_RUN, "reason": f"no time left: --from {planned.name} goes on"}
            write_result(result, out)
    print(f"\n{(out / 'summary.md').read_text()}", flush=True)
    return exit_status(result["steps"], dry)


if __name__ == "__main__":
    raise SystemExit(main())
