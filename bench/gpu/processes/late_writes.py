"""How long after a killed process's pidfd fires do its writes still arrive in the arena?

A victim attaches, takes one block and queues kernels that count up in it, with pauses between, so that much work is
still queued when it is killed. The observer, another session, watches the counter through its own mapping: the time
from the pidfd to the last change is the answer (0: nothing changed any more). This decides whether a block may be
given away when the process is gone, which is what the kvstore does. Several victims are started together and killed
one after another: a start takes seconds, a death none.

    python -m bench.gpu.processes.late_writes RUN_DIR        a victim
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import torch

from bench.gpu.processes.canary import attached
from bench.gpu.processes.stack import PATIENCE_S
from bench.report.figures import say
from quire_proto.wire.u32 import pack_u32, unpack_u32

WATCH_S = 1.0
SPIN_CYCLES = 300_000  # about 0.2 ms of a GPU between two writes
QUEUED = 1000
LIVE_S, DEAD_S = 5.0, 30.0


def victim(run_dir: str) -> None:
    """Count up in a block until killed; says which block once it has begun."""
    with attached(run_dir) as (client, arena):
        digests = client.chain("victim", pack_u32([os.getpid()] * client.block_size)).digests()
        answer = client.allocate(sequence=1, tenant="victim", tokens=client.block_size, digests=digests)
        block = unpack_u32(answer.blocks)[0]
        counter = arena[0, 0, 0, block, 0, :4].view(torch.int32)
        counter.zero_()
        print(block, flush=True)
        while True:
            for _ in range(QUEUED):
                counter += 1
                if arena.is_cuda:
                    torch.cuda._sleep(SPIN_CYCLES)  # type: ignore[no-untyped-call]
            if arena.is_cuda:
                torch.cuda.synchronize()


def observe(run_dir: Path, victims: int, logs: Path) -> list[dict[str, float]]:
    """Kill victims at work, one after another, and watch; milliseconds. Raises RuntimeError if a write arrived after
    its process was seen dead, which is what blocks are given away by.
    """
    command = [sys.executable, "-m", "bench.gpu.processes.late_writes", str(run_dir)]
    with (logs / "victims.log").open("ab") as log:
        started = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True) for _ in range(victims)]
    found: list[dict[str, float]] = []
    try:
        with attached(str(run_dir)) as (_, arena):
            # All have begun before one dies, for the block of the dead is given to the next that asks.
            blocks = [_begun(process, PATIENCE_S[arena.device.type]) for process in started]
            for process, block in zip(started, blocks, strict=True):
                found.append(_kill_and_watch(process, arena[0, 0, 0, block, 0, :4].view(torch.int32)))
                say(f"victim: {found[-1]}")
            del arena
    finally:
        for process in started:
            process.kill()
            process.communicate()
    if late := [row for row in found if row["writes_after_pidfd"]]:
        raise RuntimeError(f"{len(late)} of {victims} killed processes wrote after they were seen dead: {found}")
    return found


def _begun(process: subprocess.Popen[str], start_s: float) -> int:
    """The victim's block, once it writes."""
    assert process.stdout is not None
    if not select.select([process.stdout], [], [], start_s)[0]:
        raise RuntimeError(f"the victim did not begin within {start_s:.0f} s")
    said = process.stdout.readline().strip()
    if not said:
        raise RuntimeError(f"the victim ended with {process.wait()}: victims.log says why")
    return int(said)


def _kill_and_watch(process: subprocess.Popen[str], counter: torch.Tensor) -> dict[str, float]:
    began, until = int(counter), time.monotonic() + LIVE_S
    while int(counter) == began:
        if time.monotonic() > until:
            raise RuntimeError("the victim's writes do not arrive while it lives")
    pidfd = os.pidfd_open(process.pid)
    killed = time.monotonic()
    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    if not select.select([pidfd], [], [], DEAD_S)[0]:
        raise RuntimeError("the pidfd does not fire")
    dead = time.monotonic()
    os.close(pidfd)
    last, value = dead, int(counter)
    at_death = value
    while (now := time.monotonic()) < dead + WATCH_S:
        if (seen := int(counter)) != value:
            last, value = now, seen
    return {
        "pidfd_after_kill_ms": 1000 * (dead - killed),
        "last_write_after_pidfd_ms": 1000 * (last - dead),
        "writes_after_pidfd": float(value - at_death),
    }


if __name__ == "__main__":
    victim(sys.argv[1])
