"""Weights that the engines of this host, or of its GPU, share: whether they can be, and whether those that run do."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.shared.directory import LEAST_BYTES
from quire_engine.checkpoint.shared.room import ENTRY, obstacle
from quire_engine.checkpoint.weights.dtype import compute_dtype
from quire_engine.checkpoint.weights.weight_files import weight_elements
from quire_kv import DTYPE_BYTES, QuireError, Stats
from quire_kvstore.host.arena import SHM_DIR
from quire_proto.weights.packets import WEIGHTS_SOCKET
from quire_services.doctor.checks.answers import KVSTORE_S
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.scene import Scene
from quire_services.process.kvstore_call import kvstore_reader
from quire_services.process.preload.environment import computes_on_cpu

_ATTACHED = f"{SHM_DIR}/quire-"  # what an engine maps once its weights are loaded
_MAPPED = re.compile(rf" (/\S*{re.escape(ENTRY)})$", re.MULTILINE)
_FIX = (
    "make room or permit it, or name another directory with --weights-dir; engines that are started after that share"
    " (quire rollout)"
)


def check_shared_weights(scene: Scene) -> Findings:
    """By what running engines map; where none runs, by whether there is a place with room."""
    if not computes_on_cpu(scene.config.engine):
        yield from _on_gpu(scene)
        return
    place, size = scene.config.engine.weights_path, weight_bytes(scene)
    if not size:
        return
    if place is None or size < LEAST_BYTES:
        why = "engine.weights_dir is none" if place is None else f"{size:,} bytes are not worth a file"
        yield fact("shared-weights", f"each engine has its own: {why}", "engine.weights_dir")
        return
    mapped = {name: set(_MAPPED.findall(maps)) for name, maps in _maps(scene) if _ATTACHED in maps}
    for file in sorted(set().union(*mapped.values())):
        names = ", ".join(name for name, files in mapped.items() if file in files)
        with suppress(OSError):
            yield fact("shared-weights", f"one copy of {Path(file).stat().st_size:,} bytes, mapped by {names}", file)
    if alone := [name for name, files in mapped.items() if not files]:
        yield problem(
            "weights-not-shared",
            f"{', '.join(alone)}: {size:,} bytes of weights of its own; its log says why (weights_private)",
            _FIX,
            place,
        )
    elif not mapped and (why := obstacle(place, size)):
        yield problem("weights-not-shared", f"each engine will have its own, {size:,} bytes: {why}", _FIX, place)
    elif not mapped:
        yield fact("shared-weights", "one copy for all engines", place)


def _on_gpu(scene: Scene) -> Findings:
    """By what the kvstore says of its arenas of weights; it knows processes, and not which engine each is."""
    if not scene.config.kvstore.share_weights:
        yield fact("shared-weights", "each engine has its own: kvstore.share_weights is false", "kvstore.share_weights")
        return
    if (stats := _stats(scene)) is None:
        return
    there = [one for one in stats.weights if one.state == "sealed"]
    for one in there:
        seen = f"one copy of {one.size:,} bytes on the GPU ({one.arena}), mapped by {one.readers} processes"
        yield fact("shared-weights", seen, one.key.hex())
    attached = [session.name for session in stats.sessions if session.name.startswith("engine-")]
    if (own := len(attached) - sum(one.readers for one in there)) > 0:
        yield problem(
            "weights-not-shared",
            f"{own} of {len(attached)} engines have weights of their own; their logs say why (weights_private)",
            "mend what the log names, then quire rollout",
            "kvstore.share_weights",
        )


def _stats(scene: Scene) -> Stats | None:
    """Of a kvstore that shares weights; None if there is none, or it does not answer, which is another's finding."""
    if not scene.listens(WEIGHTS_SOCKET):
        return None
    with suppress(QuireError, OSError), kvstore_reader(scene.run_dir, KVSTORE_S) as reader:
        return reader.stats(brief=True)
    return None


def weight_copies(scene: Scene) -> int:
    """How many copies of the weights the engines that are started next will have in memory."""
    place, size = scene.config.engine.weights_path, weight_bytes(scene)
    if place is None or not computes_on_cpu(scene.config.engine) or size < LEAST_BYTES or obstacle(place, size):
        return scene.engines
    return 1


def weight_bytes(scene: Scene) -> int:
    """Of the model as it is computed with; 0 if that cannot be read."""
    with suppress(ModelRefused, OSError, ValueError, LookupError, TypeError, AttributeError):
        if directory := scene.model:
            return weight_elements(directory) * DTYPE_BYTES[compute_dtype(directory, scene.config.kvstore.dtype)]
    return 0


def _maps(scene: Scene) -> Iterator[tuple[str, str]]:
    """Running engines, and what each maps, as far as this user may see it."""
    for name, entry in sorted(scene.table.running().items()):
        if name.startswith("engine-"):
            with suppress(OSError):
                yield name, Path(f"/proc/{entry.pid}/maps").read_text()
