"""Kvstore and gateway that run: whether they answer, of which version and layout they are, and what they lack."""

from __future__ import annotations

from quire_kv import KvstoreUnreachable, QuireError, Stats
from quire_proto import __version__
from quire_proto.client.socket import KVSTORE_SOCKET
from quire_services.config.input_files import one_line
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.gateway_answers import health_answer, is_own_gateway, version_answer
from quire_services.doctor.scene import Scene
from quire_services.process.kvstore_call import kvstore_reader

KVSTORE_S = 3.0
_RESTART = "start the stack again with what is installed here (quire stop, quire serve); engines alone: quire rollout"


def check_kvstore(scene: Scene) -> Findings:
    """By its own counters."""
    if not scene.listens(KVSTORE_SOCKET):
        return  # a dead socket is the run directory's finding
    try:
        with kvstore_reader(scene.run_dir, KVSTORE_S) as reader:
            stats = reader.stats(brief=True)
    except KvstoreUnreachable:
        yield problem(
            "kvstore-silent",
            f"the kvstore listens and has not answered within {KVSTORE_S:.0f} seconds",
            "see whether it is stopped (a finding of its own) or short of CPU; kill -9 it: engines attach to the next"
            " one, and no request is lost",
            scene.run_dir / KVSTORE_SOCKET,
        )
        return
    except (QuireError, OSError) as error:
        yield problem(
            "version-mismatch",
            f"the kvstore refuses this command, which is of version {__version__}: {error}",
            _RESTART,
            "kvstore",
        )
        return
    yield from _version("kvstore", stats.version)
    yield from _layout(scene, stats)
    yield from _sessions(scene, stats)
    yield from _blocks(stats)
    yield fact(
        "kvstore",
        f"{stats.version}, layout {stats.layout.fingerprint()} ({stats.layout.model}, {stats.layout.dtype}),"
        f" {stats.num_blocks:,} blocks, up {stats.uptime_ms // 1000} s",
    )


def _version(part: str, version: str) -> Findings:
    if version and version != __version__:
        yield problem(
            "version-mismatch", f"{part} is of version {version}, this command of {__version__}", _RESTART, part
        )


def _layout(scene: Scene, stats: Stats) -> Findings:
    if scene.layout and (fields := scene.layout.differences(stats.layout)):
        yield problem(
            "layout-mismatch",
            f"the pool that runs is not the one that was prepared last: {', '.join(fields)} differ; new engines cannot"
            " attach",
            "start the stack again with one model and one set of flags (quire stop, quire serve)",
            scene.run_dir,
        )


def _sessions(scene: Scene, stats: Stats) -> Findings:
    for session in stats.sessions:
        what = f"{session.name or 'a session'} (pid {session.pid})" if session.pid else session.name or "a session"
        if session.state == "fenced":
            yield problem(
                "session-fenced",
                f"{what} has not renewed its lease, and still runs: its {session.blocks} blocks are withheld",
                f"kill -CONT or kill -9 {session.pid}" if session.pid else "restart its container, or kill it there",
                what,
            )
        elif session.pid == 0:
            yield problem(
                "session-unkillable",
                f"{what} is in another pid namespace: if it hangs, the kvstore withholds its blocks and cannot kill it",
                "nothing while it is well; else restart its container",
                what,
            )
    ready = {session.name for session in stats.sessions if session.state == "ready"}
    for name in scene.table.running():
        if name.startswith("engine-") and name not in ready:
            yield problem(
                "engine-not-ready",
                f"{name} runs and has no session that is ready: it loads its model, or waits for the kvstore",
                "wait while it loads; else the reason is in the log, and kill -9 starts it anew",
                name,
            )


def _blocks(stats: Stats) -> Findings:
    if quarantined := stats.blocks.get("quarantined", 0):
        yield problem(
            "blocks-quarantined",
            f"{quarantined} of {stats.num_blocks} blocks wait until a fenced process has ended",
            "end it: findings session-fenced and process-stopped name it; they come back at once",
            "kvstore",
        )
    if not stats.blocks.get("free", 0) + stats.blocks.get("cached", 0):
        yield problem(
            "pool-exhausted",
            f"none of {stats.num_blocks} blocks is free or can be evicted: requests wait, or are computed again",
            "more --blocks, fewer --max-sequences, a shorter --max-model-len, or a limit for the tenant that has most"
            " (quire status)",
            "kvstore.blocks",
        )


def check_gateway(scene: Scene) -> Findings:
    """As a client sees it."""
    if not is_own_gateway(scene):
        return
    health = health_answer(scene)
    where = f"{scene.config.gateway.host}:{scene.config.gateway.port}"
    if health is None:
        yield problem(
            "gateway-silent",
            "the gateway runs, and does not answer at /health",
            "see whether it is stopped (a finding of its own) or starts; kill -9 it: its supervisor starts it again",
            where,
        )
        return
    if health["status"] != "ok":
        yield problem(
            "gateway-unavailable",
            f"the gateway answers 503: {one_line(str(health.get('reason', '')))}",
            "an engine must be ready: quire engines shows what each does, the log why one is not",
            where,
        )
    version = version_answer(scene)
    yield from _version("gateway", version)
    yield fact("gateway", f"{version or 'of a version that its metrics do not tell'}, answers", where)
