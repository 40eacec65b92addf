"""Loading a model whose weights the host keeps once: written by the engine that is first, mapped by all.

    an entry is there        map it, put the model together: nothing is read, converted, packed or tried
    none, and none begun     load as ever, describe, write, map; others that start meanwhile wait for it
    it cannot be done        load as ever; one line in the log says why, and nothing is wrong but that

The first engine ends with the mapping, too, and its own copy is given back piece by piece as it is written, so both
together take little more than one. What was put together is held against what was loaded: if a few tokens' logits
differ by a bit, that checkpoint is not shared, which is kept in the place of its entry.

Invariants: the numbers are those that loading gives, to the last bit; nothing of the mapping is ever written.
"""

from __future__ import annotations

import gc
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import structlog
import torch

from quire_engine.checkpoint.architecture import read_config
from quire_engine.checkpoint.shared.directory import LEAST_BYTES, EntryDraft, Unshared, Unwanted, WeightsDirectory
from quire_engine.checkpoint.shared.entry import Entry, EntryDamaged
from quire_engine.checkpoint.shared.room import is_begun
from quire_engine.checkpoint.weights.identity import WeightsKey, weights_key
from quire_engine.checkpoint.weights.weight_files import weight_elements
from quire_engine.model.fused.packed_form import host_packing
from quire_engine.model.fused.rotary import fuse_rotary
from quire_engine.model.model import COMPUTE_DTYPES, Model, load_model, read_scales
from quire_engine.model.quantised import settle_quantisation

from .bare_model import bare_model
from .description import describe, put_together
from .freed_memory import return_freed_memory
from .probe import ModelProbe
from .tensors import MappedTensors, TensorsAsPieces

_WAIT_S, _BYTES_A_SECOND = 60.0, 20e6  # how long to wait for another's writing: what a slow disk takes

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WeightsPlace:
    """Where weights are kept once.

    Attributes:
        path: the directory; None for nowhere.
        least: bytes of weights from which on they are.
    """

    path: Path | None
    least: int = LEAST_BYTES


def load_shared_model(
    directory: Path, dtype: str, device: torch.device | str, checkpoint: str, place: WeightsPlace
) -> Model:
    """``load_model`` with weights that other engines of the host use, too, where that is possible.

    ``checkpoint`` is its ``Layout.weights``. Raises what ``load_model`` does.
    """
    model = _loaded(directory, dtype, device, checkpoint, place)
    return_freed_memory()
    return model


def _loaded(directory: Path, dtype: str, device: torch.device | str, checkpoint: str, place: WeightsPlace) -> Model:
    try:
        key, store = _admitted(directory, dtype, device, checkpoint, place)
        found = store.find(key.name) or store.claim(key.name, patience_s(directory, dtype))
        if isinstance(found, Entry):
            model = _mapped(directory, dtype, found)
            log.info("weights_shared", file=str(store.file(key.name)), bytes=found.size, written=False)
            return model
    except Unshared as why:
        return _private(why, directory, dtype, device)
    try:
        return _written(directory, dtype, found)
    finally:
        found.drop()


def _admitted(
    directory: Path, dtype: str, device: torch.device | str, checkpoint: str, place: WeightsPlace
) -> tuple[WeightsKey, WeightsDirectory]:
    """What to look for and where. Raises Unshared."""
    if place.path is None:
        raise Unwanted("engine.weights_dir is none")
    if torch.device(device).type != "cpu":
        raise Unwanted("they lie in the device's own memory")
    if (size := _estimate(directory, dtype)) < place.least:
        raise Unwanted(f"{size:,} bytes are not worth a file")
    key = weights_key(directory, checkpoint, dtype, *host_packing())
    return key, WeightsDirectory(place.path, 0 if is_begun(place.path, key.name) else size)


def _estimate(directory: Path, dtype: str) -> int:
    return weight_elements(directory) * COMPUTE_DTYPES[dtype].itemsize


def patience_s(directory: Path, dtype: str) -> float:
    """How long to wait for another process that writes them."""
    return _WAIT_S + _estimate(directory, dtype) / _BYTES_A_SECOND


def _private(why: Exception, directory: Path, dtype: str, device: torch.device | str) -> Model:
    return with_own_weights(why, load_model(directory, dtype, device))


def with_own_weights(why: Exception, model: Model) -> Model:
    """``model``, which has weights of its own; the reason goes into the log."""
    (log.info if isinstance(why, Unwanted) else log.warning)("weights_private", reason=str(why))
    model.weights_private = str(why)
    return model


def _written(directory: Path, dtype: str, draft: EntryDraft) -> Model:
    """Load, write what was loaded, and map that; if anything is in the way, what was loaded."""
    model = load_model(directory, dtype)
    try:
        bare = bare_model(directory, COMPUTE_DTYPES[dtype])
        table, tensors = describe(model.module, bare)
        probe = ModelProbe.of(model)
    except Unshared as why:
        _mark(why, draft)
        return with_own_weights(why, model)
    pieces = TensorsAsPieces(tensors, directory)
    del tensors
    content = {"weight_bytes": model.weight_bytes, "model": table, "tensors": pieces.table}
    try:
        entry = draft.write(content, pieces.sizes, pieces.pieces())
    except (EntryDamaged, OSError, Unshared) as error:
        reason = _sentence(error, draft)
        return _private(reason, directory, dtype, "cpu") if pieces.given_up else with_own_weights(reason, model)
    del model, pieces
    gc.collect()  # its layers know each other, and what is left of it maps the checkpoint
    try:
        shared = _mapped(directory, dtype, entry)
        probe.insist_same(shared)
    except Unshared as why:
        _mark(why, draft)
        return _private(why, directory, dtype, "cpu")
    try:
        draft.publish()
    except OSError as error:
        return with_own_weights(_sentence(error, draft), shared)
    log.info("weights_shared", file=str(draft.file), bytes=entry.size, written=True)
    return shared


def _sentence(error: Exception, draft: EntryDraft) -> Unshared:
    if isinstance(error, Unshared):
        return error
    return Unshared(f"{draft.file}: {error.strerror if isinstance(error, OSError) else error}")


def _mark(why: Unshared, draft: EntryDraft) -> None:
    """Say that this checkpoint is not shared to all that would try."""
    with suppress(EntryDamaged, OSError, Unshared):
        draft.write({"unshared": str(why)}, [], [])
        draft.publish()


def _mapped(directory: Path, dtype: str, entry: Entry) -> Model:
    """The model of an entry. Raises Unshared."""
    content = entry.content
    config = read_config(directory)
    try:
        if why := content.get("unshared"):
            raise Unshared(why)
        bare, mapped = bare_model(directory, COMPUTE_DTYPES[dtype]), MappedTensors(entry, directory)
        module = put_together(bare, content["model"], [mapped.tensor(told) for told in content["tensors"]])
        weight_bytes = int(content["weight_bytes"])
    except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
        raise Unshared(f"the entry does not fit: {type(error).__name__}: {error}") from None
    fuse_rotary(module)
    model = Model(module, read_scales(directory, config), weight_bytes, settle_quantisation(config, "cpu"))
    model.weights_entry = entry
    return model
