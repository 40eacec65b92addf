"""What this machine can do: ten seconds of probes to run before anything else on a GPU machine.

    python bench/gpu/probe.py

Needs the checkout, Python and, for the CUDA part, cuda-bindings; nothing has to be installed. Prints one JSON object.
What is not possible is marked with its reason, and the rest still runs. CUDA is touched in worker processes only, which
take orders over a socket: a poisoned context ends with its worker.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "proto"))

from quire_proto.memory import cuda_device  # noqa: E402 - found in the checkout
from quire_proto.memory import cuda_driver as driver  # noqa: E402

SIZE = 4 << 20
TIMEOUT_S = 8.0
SO_PEERPIDFD = 77
FIRST, SECOND = 0xA5, 0x5A
ATTRIBUTES = (
    "MPS_ENABLED", "COMPUTE_MODE", "COMPUTE_CAPABILITY_MAJOR", "COMPUTE_CAPABILITY_MINOR", "MULTIPROCESSOR_COUNT",
    "VIRTUAL_MEMORY_MANAGEMENT_SUPPORTED", "HANDLE_TYPE_POSIX_FILE_DESCRIPTOR_SUPPORTED",
)  # fmt: skip


class NotPossibleError(Exception):
    """A probe's answer is no; the message is the reason."""


# --- the worker: one process that does what it is told ------------------------------------------------------------


class Orders:
    """What a worker can do. Pointers stay here; handles and descriptors travel."""

    def __init__(self) -> None:
        self.pointer, self.fd = 0, -1

    def devices(self, _: Any, __: int) -> Any:
        """What there is, or CudaRefused."""
        found = cuda_device.visible()
        named = {name: driver.attribute(0, name) for name in ATTRIBUTES}
        versions = dict(zip(("driver", "cuda_bindings"), driver.versions(), strict=True))
        listed = [{"uuid": d.uuid, "bytes": d.total, "name": driver.device_name(d.ordinal)} for d in found]
        cuda_device.check(found[0])
        return {"devices": listed, "attributes": named, **versions}

    def export_ipc(self, _: Any, __: int) -> Any:
        """Make plain memory; its handle and the offset in it."""
        driver.initialise()
        driver.enter(0)
        self.pointer = driver.allocate(SIZE)
        return [driver.ipc_export(self.pointer).hex(), self.pointer - driver.base_of(self.pointer)]

    def export_vmm(self, _: Any, __: int) -> Any:
        """Make memory behind a descriptor, without a context; whether the driver asked for one all the same."""
        driver.initialise()
        try:
            driver.call("cuMemRelease", driver.vmm_create(0, SIZE))
            asked = False
        except driver.CudaError as exc:
            if exc.code != driver.NO_CONTEXT:
                raise
            asked = True
        self.fd = driver.vmm_export(0, SIZE)
        return asked

    def open_ipc(self, order: Any, _: int) -> Any:
        """Open [handle, offset]; how long it took (ms)."""
        driver.initialise()
        driver.enter(0)
        began = time.perf_counter()
        self.pointer = driver.ipc_open(bytes.fromhex(order[0])) + order[1]
        return round((time.perf_counter() - began) * 1000, 3)

    def open_vmm(self, _: Any, fd: int) -> Any:
        """Map what a descriptor names; how long it took (ms)."""
        driver.initialise()
        driver.enter(0)
        began = time.perf_counter()
        self.pointer = driver.vmm_map(0, fd, SIZE)
        os.close(fd)
        return round((time.perf_counter() - began) * 1000, 3)

    def write(self, value: Any, _: int) -> Any:
        """Fill the memory with one byte, and wait."""
        driver.call("cuMemsetD8", driver.bindings().CUdeviceptr(self.pointer), value, SIZE)
        driver.call("cuCtxSynchronize")

    def read(self, _: Any, __: int) -> Any:
        """The different bytes in the memory."""
        host = ctypes.create_string_buffer(SIZE)
        driver.call("cuMemcpyDtoH", ctypes.addressof(host), driver.bindings().CUdeviceptr(self.pointer), SIZE)
        return sorted(set(host.raw))


def work(fd: int) -> None:
    """Take orders until the other end closes."""
    orders = Orders()
    with socket.socket(fileno=fd) as end:
        while True:
            text, descriptors, _, _ = socket.recv_fds(end, 1 << 16, 1)
            if not text:
                return
            name, argument = json.loads(text)
            orders.fd = -1
            try:
                reply = {"value": getattr(orders, name)(argument, descriptors[0] if descriptors else -1)}
            except (driver.CudaError, cuda_device.CudaRefused) as exc:
                reply = {"error": str(exc)}
            socket.send_fds(end, [json.dumps(reply).encode()], [orders.fd] if orders.fd >= 0 else [])


class Worker:
    """A worker process, as its master sees it."""

    def __init__(self) -> None:
        self._end, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._end.settimeout(TIMEOUT_S)
        command = [sys.executable, __file__, "--worker", str(theirs.fileno())]
        self.process = subprocess.Popen(command, pass_fds=[theirs.fileno()])
        theirs.close()

    def ask(self, name: str, argument: Any = None, fd: int = -1) -> tuple[Any, int]:
        """Order and answer, with a descriptor (-1: none). Raises NotPossibleError."""
        try:
            socket.send_fds(self._end, [json.dumps([name, argument]).encode()], [fd] if fd >= 0 else [])
            text, descriptors, _, _ = socket.recv_fds(self._end, 1 << 16, 1)
        except OSError as exc:
            raise NotPossibleError(f"{name}: {exc or 'no answer'} within {TIMEOUT_S:.0f} s") from None
        if not text:
            raise NotPossibleError(f"{name}: the process ended with {self.process.wait()}")
        reply = json.loads(text)
        if "error" in reply:
            raise NotPossibleError(f"{name}: {reply['error']}")
        return reply["value"], descriptors[0] if descriptors else -1

    def kill(self) -> None:
        """SIGKILL, and wait for the end."""
        self.process.kill()
        self.process.wait()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._end.close()
        self.kill()


# --- the probes ---------------------------------------------------------------------------------------------------


def devices() -> Any:
    """Devices, attributes, versions; refuses what the kvstore would refuse."""
    with Worker() as worker:
        return worker.ask("devices")[0]


def cuda_ipc() -> Any:
    """One process exports, another reads and writes, the first sees it."""
    with Worker() as exporter, Worker() as importer:
        handle, _ = exporter.ask("export_ipc")
        exporter.ask("write", FIRST)
        opened_ms, _ = importer.ask("open_ipc", handle)
        _expect(importer, FIRST)
        importer.ask("write", SECOND)
        _expect(exporter, SECOND)
        return {"open_ms": opened_ms}


def cuda_vmm_fd() -> Any:
    """A process without a context exports, two others share, and the memory outlives the exporter."""
    with Worker() as exporter, Worker() as first, Worker() as second:
        asked, fd = exporter.ask("export_vmm")
        try:
            opened_ms = [importer.ask("open_vmm", None, fd)[0] for importer in (first, second)]
        finally:
            if fd >= 0:
                os.close(fd)
        first.ask("write", FIRST)
        _expect(second, FIRST)
        exporter.kill()
        second.ask("write", SECOND)
        _expect(first, SECOND)
        return {"open_ms": opened_ms, "outlives_exporter": True, "context_to_make_it": asked}


def _expect(worker: Worker, value: int) -> None:
    seen, _ = worker.ask("read")
    if seen != [value]:
        raise NotPossibleError(f"read {seen[:4]} where another process wrote {[value]}")


def pidfd() -> Any:
    """A pidfd kills exactly its process and becomes readable when that is dead; how long that takes."""
    process = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    fd = os.pidfd_open(process.pid)
    try:
        began = time.perf_counter()
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        if not select.select([fd], [], [], TIMEOUT_S)[0]:
            raise NotPossibleError(f"not readable {TIMEOUT_S:.0f} s after SIGKILL")
        return {"death_seen_ms": round((time.perf_counter() - began) * 1000, 3)}
    finally:
        os.close(fd)
        process.kill()
        process.wait()


def so_peerpidfd() -> Any:
    """The pidfd of the process behind a socket, without a race (Linux 6.5)."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        os.close(ours.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
    return {}


def namespaces() -> Any:
    """ipc and pid namespace, and whether they are those of pid 1; kvstore and engines must agree for CUDA IPC."""
    found: dict[str, Any] = {
        "pids": Path("/proc/self/status").read_text().partition("NSpid:")[2].split("\n")[0].split()
    }
    for kind in ("ipc", "pid"):
        found[kind] = os.readlink(f"/proc/self/ns/{kind}")
        try:
            found[f"{kind}_of_pid_1"] = os.readlink(f"/proc/1/ns/{kind}")
        except OSError as exc:
            found[f"{kind}_of_pid_1"] = f"not readable: {exc.strerror}"
    return found


def compiler() -> Any:
    """What Triton compiles its glue to the driver with at its first launch: a C compiler, and Python's headers."""
    found = shutil.which(os.environ.get("CC", "gcc")) or shutil.which("clang")
    header = Path(sysconfig.get_paths(scheme="posix_prefix")["include"], "Python.h")
    if not found or not header.exists():
        raise NotPossibleError(f"compiler: {found}; {header}: {'there' if header.exists() else 'not there'}")
    return {"compiler": found}


def host() -> Any:
    """What is asked for the host's identity, room for what is compiled, and versions that matter."""
    found: dict[str, Any] = {"boot_id": Path("/proc/sys/kernel/random/boot_id").read_text().strip()}
    for folder in ("/tmp", "/dev/shm", str(Path.home())):
        found[f"GiB free in {folder}"] = round(shutil.disk_usage(folder).free / 2**30, 1)
    for name in ("numpy", "torch", "triton", "transformers", "cuda-bindings", "pytest", "pytest-xdist"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
    return found


def nvidia_smi() -> Any:
    """Its table goes to the log."""
    done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=TIMEOUT_S, check=True)
    print(done.stdout, file=sys.stderr)
    return {}


def probe(action: Callable[[], Any]) -> dict[str, Any]:
    """Its answer, or the reason why it is not possible."""
    began = time.perf_counter()
    try:
        answer = {"possible": True, **action()}
    except (NotPossibleError, OSError) as exc:
        answer = {"possible": False, "reason": str(exc)}
    except Exception as exc:  # a kernel that lacks a call, a tool that hangs
        answer = {"possible": False, "reason": repr(exc)}
    return {**answer, "took_s": round(time.perf_counter() - began, 2)}


def main() -> int:
    """Run all probes and print them; always 0, since "not possible" is an answer."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path, help="a folder for the answers, too")
    options, _ = parser.parse_known_args()  # run.py gives every step the same options
    found: dict[str, Any] = {"kernel": os.uname().release, "python": sys.version.split()[0]}
    for action in (namespaces, pidfd, so_peerpidfd, host, compiler, nvidia_smi, devices, cuda_ipc, cuda_vmm_fd):
        found[action.__name__] = probe(action)
        if options.out:
            no = [name for name, answer in found.items() if isinstance(answer, dict) and not answer["possible"]]
            short = f"not possible: {', '.join(no)}" if no else "everything is possible"
            (options.out / "figures.json").write_text(json.dumps({**found, "in short": short}))
    print(json.dumps(found, indent=2))
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["--worker"]:
        work(int(sys.argv[2]))
    else:
        raise SystemExit(main())
