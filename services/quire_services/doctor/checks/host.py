"""The host: kernel, namespaces, limits of this user's processes, and settings of allocators in the environment."""

from __future__ import annotations

import os
import platform
import resource
import socket
from contextlib import suppress
from pathlib import Path

from quire_kvstore.host.attach_socket import SO_PEERPIDFD
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.scene import Scene
from quire_services.gateway.http.connections import DEFAULT_CONNECTIONS, SPARE_FILES
from quire_services.stack.processes import ENGINE_ENVIRONMENT

NAMESPACES = ("pid", "ipc", "net", "mnt", "user")
CGROUP = Path("/sys/fs/cgroup")
# Threads of an engine beside those that compute, of the gateway with its readers, and of a kvstore.
TASKS_OF_AN_ENGINE, TASKS_OF_THE_REST = 24, 64
# What changes how processes take memory. Values are shown: none of them is a secret.
ALLOCATOR_VARIABLES = (
    "PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_ALLOC_CONF", "PYTORCH_NO_CUDA_MEMORY_CACHING", "LD_PRELOAD", "MALLOC_ARENA_MAX",
    "GLIBC_TUNABLES", "OMP_NUM_THREADS", "OMP_WAIT_POLICY", *ENGINE_ENVIRONMENT,
)  # fmt: skip


def check_kernel(_: Scene) -> Findings:
    """Whether processes can be held by pidfds, and those of other pid namespaces too."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError) as error:
        yield problem(
            "kernel-too-old",
            f"{platform.system()} {platform.release()} has no pidfd_open: {error}",
            "run on Linux 5.3 or later, outside a sandbox that hides it",
        )
        return
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours, theirs:
        try:
            os.close(ours.getsockopt(socket.SOL_SOCKET, SO_PEERPIDFD))
            known = "pidfd_open and SO_PEERPIDFD"
        except OSError:
            known = "pidfd_open"
            yield problem(
                "peer-pidfd-missing",
                f"Linux {platform.release()} has no SO_PEERPIDFD: kvstore and engines must share a pid namespace",
                "in containers share it, or run on Linux 6.5 or later; nothing to do in one container or on the host",
            )
    yield fact("kernel", f"{platform.system()} {platform.release()}, with {known}")


def check_namespaces(scene: Scene) -> Findings:
    """Which namespaces this is, and whether the stack's processes can be seen from here."""
    inodes = []
    for name in NAMESPACES:
        with suppress(OSError):
            inodes.append(f"{name} {os.stat(f'/proc/self/ns/{name}').st_ino}")
    yield fact("namespaces", ", ".join(inodes) + (", in a container" if _in_container() else ""))
    if scene.table_is_foreign:
        yield problem(
            "processes-unseen",
            "the stack of this run directory was started in another pid namespace, or before the last boot",
            "ask again where it runs (docker exec), or start it again if the machine was",
            scene.run_dir,
        )


def check_limits(scene: Scene) -> Findings:
    """Limits that the stack would meet later than at its start."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = (scene.config.gateway.max_connections or DEFAULT_CONNECTIONS) + SPARE_FILES
    if files != resource.RLIM_INFINITY and files < wanted:
        yield problem(
            "open-files-low",
            f"a process may open {files} files: the gateway takes {max(1, files - SPARE_FILES)} connections, no more",
            f"raise the hard limit to {wanted} (ulimit -Hn; systemd: LimitNOFILE=; docker: --ulimit nofile=)",
            "RLIMIT_NOFILE",
        )
    yield from _tasks(scene)
    for what, kind in (("address-space", resource.RLIMIT_AS), ("file-size", resource.RLIMIT_FSIZE)):
        yield from _bytes_limited(scene, what, kind)
    yield fact("limits", f"{'any number of' if files == resource.RLIM_INFINITY else files} open files")


def _tasks(scene: Scene) -> Findings:
    settings = scene.config
    threads = settings.engine.threads or max(1, (os.cpu_count() or 1) // settings.serve.engines)
    wanted = scene.engines * (threads + TASKS_OF_AN_ENGINE) + TASKS_OF_THE_REST
    for limit, left in _tasks_left():
        if left < wanted:
            yield problem(
                "tasks-low",
                f"{left} more processes and threads may be started here; {scene.engines} engines and the rest of a"
                f" stack take about {wanted}",
                "raise the limit (ulimit -u; systemd: TasksMax=; docker: --pids-limit), or fewer engines or threads",
                limit,
            )


def _tasks_left() -> list[tuple[str, int]]:
    """Limits and how many tasks they leave. Root is under none of its own."""
    found = []
    soft, _ = resource.getrlimit(resource.RLIMIT_NPROC)
    if os.geteuid() and soft != resource.RLIM_INFINITY:
        found.append(("RLIMIT_NPROC", soft))
    with suppress(OSError, ValueError):
        left = int((CGROUP / "pids.max").read_text()) - int((CGROUP / "pids.current").read_text())
        found.append((str(CGROUP / "pids.max"), left))
    return found


def _bytes_limited(scene: Scene, what: str, kind: int) -> Findings:
    limit, _ = resource.getrlimit(kind)
    pool = scene.pool_bytes
    if limit == resource.RLIM_INFINITY or (what == "file-size" and limit > pool > 0):
        return
    needed = f"the pool needs {pool:,}" if pool else "a pool may need more"
    name, flag = ("RLIMIT_AS", "v") if what == "address-space" else ("RLIMIT_FSIZE", "f")
    yield problem(
        f"{what}-limited",
        f"the {what.replace('-', ' ')} of a process is limited to {limit:,} bytes: {needed}, and an engine its weights"
        if what == "address-space"
        else f"the size of a file is limited to {limit:,} bytes: {needed}",
        f"ulimit -{flag} unlimited, in the shell or unit that starts the stack",
        name,
    )


def check_allocator(_: Scene) -> Findings:
    """Variables that the stack would inherit from here."""
    found = [f"{name}={os.environ[name]}" for name in ALLOCATOR_VARIABLES if os.environ.get(name)]
    for setting in found:
        yield problem(
            "allocator-setting",
            f"the environment has {setting}",
            "unset it unless it is meant: engines inherit it in place of their own; the pool itself is not affected",
            setting.partition("=")[0],
        )
    if not found:
        yield fact("allocator", "nothing of it is set in the environment")


def _in_container() -> bool:
    return any(Path(mark).exists() for mark in ("/.dockerenv", "/run/.containerenv"))
