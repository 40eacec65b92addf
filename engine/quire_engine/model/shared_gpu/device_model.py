"""Loading a model onto a GPU whose engines have one copy of its weights.

    sealed already         map it read-only, put the model together: no weight is read from the checkpoint
    no process has it      load on the host, upload into memory that the kvstore makes, seal; compute over that, too
    another one writes     wait for it; if it fails, be the one
    it cannot be done      weights of its own, as ever; one line in the log says why, and nothing is wrong but that

The key and the ways between a model and its tensors are those of a host's one copy (``checkpoint/weights/identity``,
``model/shared``). The writer loads on the host, so a GPU never holds the weights twice. Before it uploads them it holds
what is put together of them against what was loaded, there: logits of a few tokens, equal to the bit.

Invariants: what is sealed is never written again, by its writer neither; a model keeps its hold as long as it lives.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog
import torch

from quire_engine.checkpoint.architecture import read_config
from quire_engine.checkpoint.shared.directory import Unshared, Unwanted
from quire_engine.checkpoint.weights.identity import DENSE, weights_key
from quire_engine.kv.attach import quiesce, wrap_memory
from quire_engine.model.model import COMPUTE_DTYPES, Model, fused_for_device, load_model, read_scales
from quire_engine.model.quantised import STAYS_QUANTISED, settle_quantisation
from quire_engine.model.shared.bare_model import bare_model
from quire_engine.model.shared.description import describe, put_together
from quire_engine.model.shared.freed_memory import return_freed_memory
from quire_engine.model.shared.probe import ModelProbe
from quire_engine.model.shared.shared_model import patience_s, with_own_weights
from quire_engine.model.weights import load_module
from quire_kv import QuireError, WeightsConnection, WeightsMapping
from quire_proto.messages.weights import ReadWeights, WeightTensor, WriteWeights, YourWeights

from .arena_plan import ArenaPlan, planned_tensors
from .claim import beating, claim_weights
from .hold import WeightsHold

KVSTORE_S = 60.0  # an engine may be started before its kvstore

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class WeightsDesk:
    """Where weights are asked for.

    Attributes:
        run_dir: of the kvstore.
        end: ends this process where it may launch nothing any more; called with the reason, on any thread.
        writer_s: how long to wait for another engine that writes them; 0: what their size takes.
    """

    run_dir: Path
    end: Callable[[str], None]
    writer_s: float = 0.0


def load_device_model(
    directory: Path, dtype: str, device: torch.device | str, checkpoint: str, desk: WeightsDesk
) -> Model:
    """``load_model`` with the weights that other engines of the GPU use, too, where that is possible.

    ``checkpoint`` is its ``Layout.weights``. Raises what ``load_model`` does, and ContextPoisoned.
    """
    loading = _Loading(directory, dtype, torch.device(device), checkpoint, desk)
    try:
        loading.admit()
        connection, told = claim_weights(
            desk.run_dir, loading.key, KVSTORE_S, desk.writer_s or patience_s(directory, dtype)
        )
        if isinstance(told, ReadWeights):
            return loading.read(connection, told)
    except Unshared as why:
        return with_own_weights(why, load_model(directory, dtype, device))
    model = loading.write(connection, told)
    return_freed_memory()
    return model


class _Loading:
    """One model on its way to a GPU."""

    def __init__(self, directory: Path, dtype: str, device: torch.device, checkpoint: str, desk: WeightsDesk) -> None:
        self._directory, self._dtype, self._device, self._desk = directory, dtype, device, desk
        self._config = read_config(directory)
        self._scales = read_scales(directory, self._config)
        # Whether quantised weights stay so depends on the device, and decides what is kept.
        self._quantised = settle_quantisation(self._config, device)
        self._bare: Any = None
        self.key = bytes.fromhex(weights_key(directory, checkpoint, dtype, DENSE, self._quantised).name)

    def admit(self) -> None:
        """Raise Unshared for a model that no engine can share: none is to wait for another one's finding that out."""
        if self._quantised.startswith(STAYS_QUANTISED):
            raise Unwanted(f"they are {self._quantised}, and no model is put together of such")
        self._bare = self._bare_model()

    def read(self, connection: WeightsConnection, told: ReadWeights) -> Model:
        """The model over what another engine has sealed. Raises Unshared."""
        began, mapping = time.monotonic(), None
        try:
            manifest = connection.manifest(told)
            mapping = WeightsMapping(told.handle, connection.fd, read_only=True)
            mapped_s = time.monotonic() - began
            model = self._put_together(mapping, manifest)
        except (QuireError, Unshared) as why:
            _give_up(connection, mapping)
            raise Unshared(str(why)) from None
        except BaseException:
            _give_up(connection, mapping)
            raise
        return self._held(model, connection, told, mapping, manifest, mapped_s, written=False)

    def write(self, connection: WeightsConnection, told: YourWeights) -> Model:
        """Load the model, upload and seal its weights, and have it over them; if anything is in the way of that, over
        weights of its own."""
        mapping = None
        try:
            with beating(connection, told.lease_ms):
                module = load_module(self._directory, self._config, COMPUTE_DTYPES[self._dtype], "cpu")
            try:
                with beating(connection, told.lease_ms):
                    plan = self._planned(module)
                memory = connection.make(plan.size)
                began = time.monotonic()
                mapping = WeightsMapping(memory.handle, connection.fd, read_only=False)
                mapped_s = time.monotonic() - began
                with beating(connection, told.lease_ms):
                    plan.upload(wrap_memory(mapping.view))
                    model = self._put_together(mapping, plan.manifest)
                    quiesce(self._device)
                mapping.protect()
                connection.seal(plan.manifest)
            except (QuireError, Unshared) as why:
                _give_up(connection, mapping)
                own = module.to(self._device)
                return with_own_weights(why, self._model(own))
        except BaseException:
            _give_up(connection, mapping)
            raise
        return self._held(model, connection, memory, mapping, plan.manifest, mapped_s, written=True)

    def _planned(self, module: Any) -> ArenaPlan:
        """The arena of a loaded model. Raises Unshared if a model of its tensors is another one."""
        bare = self._bare_model()
        table, tensors = describe(module, bare)
        ModelProbe.of(Model(module)).insist_same(Model(put_together(bare, table, tensors)))
        return ArenaPlan(table, tensors)

    def _put_together(self, mapping: WeightsMapping, manifest: tuple[WeightTensor, ...]) -> Model:
        """The model over a mapping. Raises Unshared."""
        try:
            table, tensors = planned_tensors(manifest, wrap_memory(mapping.view))
            module = put_together(self._bare_model(), table, tensors)
        except (AttributeError, LookupError, OSError, TypeError, ValueError) as error:
            raise Unshared(f"the arena does not fit: {type(error).__name__}: {error}") from None
        return self._model(module)

    def _bare_model(self) -> Any:
        """A model without weights, which is given away once: ``put_together`` fills it. Raises Unshared."""
        found, self._bare = self._bare, None
        return bare_model(self._directory, COMPUTE_DTYPES[self._dtype]) if found is None else found

    def _model(self, module: Any) -> Model:
        weight_bytes = sum(weight.nbytes for weight in module.parameters())
        return fused_for_device(module, self._scales, weight_bytes, self._quantised)

    def _held(
        self,
        model: Model,
        connection: WeightsConnection,
        told: ReadWeights | WriteWeights,
        mapping: WeightsMapping,
        manifest: tuple[WeightTensor, ...],
        mapped_s: float,
        written: bool,
    ) -> Model:
        model.weights_hold = WeightsHold(
            self._desk.run_dir, self.key, told.arena, told.handle, manifest, connection, mapping, self._desk.end
        )
        log.info(
            "weights_shared",
            arena=told.handle.type,
            bytes=told.handle.size,
            written=written,
            read_only=mapping.read_only,
            mapped_ms=round(1000 * mapped_s, 1),
        )
        return model


def _give_up(connection: WeightsConnection, mapping: WeightsMapping | None) -> None:
    """Nothing of this process maps the arena any more. Raises DeviceFault if the context is poisoned."""
    if mapping is not None:
        mapping.close()
    connection.release()
