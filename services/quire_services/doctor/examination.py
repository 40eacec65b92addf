"""The examination: all checks at once, each with the same time, and none that can end or hold up another.

A check runs in a thread, because what it asks may never answer: a directory of a dead file server, a pipe in the place
of a file. One that has not come back when the time is over is a finding; its thread is left behind and ends with the
process.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

from .checks.answers import check_gateway, check_kvstore
from .checks.gpu import check_gpu
from .checks.host import check_allocator, check_kernel, check_limits, check_namespaces
from .checks.memory import check_memory
from .checks.model import check_model
from .checks.ports import check_ports_free
from .checks.processes import check_processes
from .checks.run_directory import check_run_directory, check_state
from .checks.settings import check_settings
from .checks.shared_weights import check_shared_weights
from .checks.software import check_cpu_kernels, check_packages, check_preload
from .findings import Finding, Findings, problem
from .scene import Scene

Check = Callable[[Scene], Findings]
CHECKS: tuple[Check, ...] = (
    check_kernel, check_namespaces, check_limits, check_allocator, check_memory, check_gpu, check_packages,
    check_cpu_kernels, check_preload, check_settings, check_run_directory, check_state, check_ports_free, check_model,
    check_shared_weights, check_processes, check_kvstore, check_gateway,
)  # fmt: skip


def examine(scene: Scene, seconds: float, checks: Sequence[Check] = CHECKS) -> list[Finding]:
    """What all checks find, in their order."""
    found: list[list[Finding]] = [[] for _ in checks]
    threads = [
        threading.Thread(target=_run, args=(check, scene, place), daemon=True)
        for check, place in zip(checks, found, strict=True)
    ]
    for thread in threads:
        thread.start()
    until = time.monotonic() + seconds
    for check, thread, place in zip(checks, threads, found, strict=True):
        thread.join(max(0.0, until - time.monotonic()))
        if thread.is_alive():
            place.append(_late(check, seconds))
    return [finding for place in found for finding in place[:]]


def _run(check: Check, scene: Scene, place: list[Finding]) -> None:
    try:
        for finding in check(scene):
            place.append(finding)
    except Exception as error:
        place.append(
            problem(
                "check-failed",
                f"{type(error).__name__}: {error}",
                "this is a fault of quire doctor: report it; what else it says still holds",
                _subject(check),
            )
        )


def _late(check: Check, seconds: float) -> Finding:
    return problem(
        "check-timeout",
        f"not done within {seconds:g} seconds: something that it reads does not answer",
        "look for a file system that hangs, and for pipes in the place of files; on a busy machine raise --timeout-s",
        _subject(check),
    )


def _subject(check: Check) -> str:
    return check.__name__.removeprefix("check_").replace("_", "-")
