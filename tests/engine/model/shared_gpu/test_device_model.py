"""The weights of a GPU as one engine after another has them: over recorded driver calls and real, shared memory."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from structlog.testing import capture_logs

from quire_engine.checkpoint.refusal import ModelRefused
from quire_engine.checkpoint.shared.directory import Unshared
from quire_engine.kv.attach import ContextPoisoned
from quire_engine.model.model import Model, load_model
from quire_engine.model.shared_gpu import claim, device_model, hold
from quire_engine.model.shared_gpu.arena_plan import ArenaPlan
from quire_engine.model.shared_gpu.claim import beating
from quire_kv import KvstoreUnreachable
from tests.engine.model.shared_gpu.conftest import Load
from tests.kvstore.host.cuda_arena.recorder import GRANULE
from tests.kvstore.host.cuda_arena.stack import RecordedKvstore
from tests.support.children import python_child
from tests.support.mapped_weights import memory_of, own_logits
from tests.support.waits import wait_for

pytestmark = pytest.mark.process
# An engine that is killed, or goes on, when a part of its tensors is written.
HALF = """
import json, sys, time
from pathlib import Path
from quire_engine.model.shared_gpu import device_model
from quire_engine.model.shared_gpu.arena_plan import ArenaPlan
from quire_engine.checkpoint.layout import layout_of
from tests.kvstore.host.cuda_arena.recorder import Recorder
from tests.support.device_engine import host_view
import structlog
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
sys.modules["cuda.bindings.driver"] = Recorder(mapped=True)
device_model.wrap_memory = host_view
run_dir, model = map(Path, sys.argv[1:])

def half(self, memory):
    memory.fill_(0xFF)
    for offset, tensor in self._pieces[: len(self._pieces) // 2]:
        memory[offset : offset + tensor.nbytes].view(tensor.dtype).view(tensor.shape).copy_(tensor)
    print("half", flush=True)
    time.sleep(600)

ArenaPlan.upload = half
desk = device_model.WeightsDesk(run_dir, print)
device_model.load_device_model(model, "float32", "cpu", layout_of(model, "float32", 16).weights, desk)
"""


def half(kvstore: RecordedKvstore, model_dir: Path) -> Any:
    """A process that stops for good in the middle of its upload."""
    return python_child(HALF, str(kvstore.run_dir), str(model_dir), says="half", seconds=60)


def rows(kvstore: RecordedKvstore) -> list[tuple[str, int]]:
    """(state, readers) of all arenas of weights."""
    return [(one.state, one.readers) for one in kvstore.stats().weights]


def rights(tensor: torch.Tensor) -> str:
    """Those of the memory that a tensor lies in, and what that is."""
    return " ".join(memory_of(tensor))


def logits(model: Model) -> torch.Tensor:
    """Of some tokens, under the model's own attention."""
    return own_logits(model, 32)


def right(model: Model, expected: torch.Tensor) -> bool:
    """Whether its logits are transformers', but for what packing and alignment round."""
    return torch.allclose(logits(model), expected, rtol=1e-3, atol=1e-3)


@pytest.fixture(scope="module")
def expected(model_dir: Path) -> torch.Tensor:
    """What transformers computes."""
    from transformers import AutoModelForCausalLM

    module = AutoModelForCausalLM.from_pretrained(model_dir, attn_implementation="eager").eval()
    with torch.inference_mode():
        found: torch.Tensor = module(input_ids=torch.arange(1, 33).unsqueeze(0), use_cache=False).logits
    return found


def test_one_engine_uploads_and_the_next_maps(
    kvstore: RecordedKvstore, load: Load, expected: torch.Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both compute over pages that cannot be written, and the second has read no weight from the checkpoint."""
    kvstore.start_with("cuda-vmm-fd")
    with capture_logs() as lines:
        first = load()
        monkeypatch.setattr(device_model, "load_module", None)
        monkeypatch.setattr(ArenaPlan, "upload", None)
        second = load()
    told = [line for line in lines if line["event"] == "weights_shared"]
    assert [(line["written"], line["read_only"], line["arena"]) for line in told] == [
        (True, True, "cuda-vmm-fd"), (False, True, "cuda-vmm-fd"),
    ]  # fmt: skip
    for model in (first, second):
        assert (model.weights_shared, model.weights_private) == (True, "")
        assert {rights(weight) for weight in model.module.parameters()} == {"r--s /memfd:device memory (deleted)"}
        assert right(model, expected)
    assert second.module.lm_head.weight is second.module.get_input_embeddings().weight
    assert (first.weight_bytes, first.eos_ids) == (second.weight_bytes, second.eos_ids)
    (row,) = kvstore.stats().weights
    assert (row.state, row.readers, row.size) == ("sealed", 2, told[1]["bytes"])
    assert row.size >= second.weight_bytes


@pytest.mark.slow
def test_a_model_of_its_own_and_a_shared_one_agree(kvstore: RecordedKvstore, load: Load, model_dir: Path) -> None:
    """In size, ends and what they are quantised from; a narrower type has an arena of its own."""
    kvstore.start_with("cuda-vmm-fd")
    for dtype in ("float32", "bfloat16"):
        own, shared = load_model(model_dir, dtype), load(dtype)
        assert shared.module.dtype == own.module.dtype
        for name in ("weight_bytes", "eos_ids", "quantised", "vocab_size", "max_model_len"):
            assert getattr(shared, name) == getattr(own, name)
    assert rows(kvstore) == [("sealed", 1), ("sealed", 1)]


def test_kill_9_of_the_writer_has_the_next_one_write_anew(
    kvstore: RecordedKvstore, load: Load, model_dir: Path, expected: torch.Tensor
) -> None:
    """In memory of its own: nothing of what was half written is computed with."""
    kvstore.start_with("cuda-vmm-fd")
    with half(kvstore, model_dir) as writer:
        assert rows(kvstore) == [("claimed", 0)]
        with capture_logs() as lines:
            writer.kill()
            model = load()
    assert [line["written"] for line in lines if line["event"] == "weights_shared"] == [True]
    assert right(model, expected)
    wait_for(lambda: rows(kvstore) == [("sealed", 1)], "the dead one's memory is gone")


def test_a_writer_that_comes_to_no_end_costs_the_next_one_weights_of_its_own(
    kvstore: RecordedKvstore, load: Load, model_dir: Path, expected: torch.Tensor
) -> None:
    """After a time that the size allows; the log names the process, and the model is served."""
    kvstore.start_with("cuda-vmm-fd")
    with half(kvstore, model_dir) as writer, capture_logs() as lines:
        model = load(writer_s=0.5)
    assert {"event": "weights_awaited", "log_level": "info", "writer_pid": writer.pid} in lines
    assert "nothing came of them within 0.5 s" in model.weights_private
    assert not model.weights_shared
    assert right(model, expected)


def test_space_that_is_refused_is_said(kvstore: RecordedKvstore, load: Load, expected: torch.Tensor) -> None:
    """The kvstore's own sentence, which says what to change; the model is served."""
    kvstore.start_with("cuda-vmm-fd", total=GRANULE)
    model = load()
    assert "NO_SPACE: the weights need" in model.weights_private
    assert "--kv-gib" in model.weights_private
    assert right(model, expected)
    assert rows(kvstore) == []


def test_a_kvstore_without_the_socket_is_found_at_once(kvstore: RecordedKvstore, load: Load) -> None:
    """An older one, or one that is told not to share: nothing is waited for, and the reason is no warning."""
    kvstore._command.append("--share-weights=false")
    kvstore.start_with("cuda-vmm-fd")
    began = time.monotonic()
    with capture_logs() as lines:
        model = load()
    assert time.monotonic() - began < device_model.KVSTORE_S / 2
    assert "weights.sock (share_weights is false" in model.weights_private
    assert [line["log_level"] for line in lines if line["event"] == "weights_private"] == ["info"]


def test_without_a_kvstore_an_engine_does_not_wait_for_ever(
    kvstore: RecordedKvstore, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has weights of its own then, and attaches when there is one."""
    monkeypatch.setattr(device_model, "KVSTORE_S", 0.2)
    assert "no kvstore answered in" in load().weights_private
    kvstore.start_with("cuda-vmm-fd")


def test_a_kvstore_that_ends_under_the_writer_costs_nothing_but_the_sharing(
    kvstore: RecordedKvstore, load: Load, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor
) -> None:
    """Uploaded and not sealed: unmapped, and computed with what was loaded."""
    kvstore.start_with("cuda-vmm-fd")
    upload = ArenaPlan.upload

    def killed(self: ArenaPlan, memory: torch.Tensor) -> None:
        upload(self, memory)
        kvstore.kill()

    monkeypatch.setattr(ArenaPlan, "upload", killed)
    model = load()
    assert "weights.sock" in model.weights_private
    assert right(model, expected)


@pytest.mark.slow
def test_a_kvstore_that_ends_under_a_waiter_is_waited_for(
    kvstore: RecordedKvstore, load: Load, model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The next kvstore has the claim anew."""
    kvstore.start_with("cuda-vmm-fd")
    waits = claim.log

    class Log(SimpleNamespace):
        def info(self, event: str, **more: Any) -> None:
            if event == "weights_awaited" and kvstore.process.poll() is None:
                kvstore.kill()
                kvstore.start_with("cuda-vmm-fd")
            waits.info(event, **more)

    monkeypatch.setattr(claim, "log", Log())
    with half(kvstore, model_dir):
        assert load().weights_shared


def test_a_model_that_would_compute_otherwise_is_not_uploaded(
    kvstore: RecordedKvstore, load: Load, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor
) -> None:
    """What was put together is held against what was loaded before anything is written."""
    kvstore.start_with("cuda-vmm-fd")
    whole = device_model.put_together

    def wrong(*arguments: Any) -> Any:
        module = whole(*arguments)
        module.model.norm.weight = torch.nn.Parameter(module.model.norm.weight + 1, requires_grad=False)
        return module

    monkeypatch.setattr(device_model, "put_together", wrong)
    model = load()
    assert "other numbers" in model.weights_private
    assert right(model, expected)
    assert rows(kvstore) == []


def test_a_refused_model_lets_go_of_its_claim(
    kvstore: RecordedKvstore, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No engine waits for one that has ended."""
    kvstore.start_with("cuda-vmm-fd")

    def refuse(*_: Any) -> None:
        raise ModelRefused("no")

    monkeypatch.setattr(device_model, "load_module", refuse)
    with pytest.raises(ModelRefused):
        load()
    wait_for(lambda: rows(kvstore) == [], "the claim is given up")


def test_after_a_restart_of_the_kvstore_the_weights_are_brought(kvstore: RecordedKvstore, load: Load) -> None:
    """By whoever maps them, without a word of the engine's loop; who starts later reads them."""
    kvstore.start_with("cuda-vmm-fd")
    ended: list[str] = []
    for _ in range(2):
        load(ended=ended)
    for _ in range(2):
        kvstore.kill()
        kvstore.start_with("cuda-vmm-fd")
        wait_for(lambda: rows(kvstore) == [("sealed", 2)], "both have brought it")
    with capture_logs() as lines:
        load()
    assert [line["written"] for line in lines if line["event"] == "weights_shared"] == [False]
    assert rows(kvstore) == [("sealed", 3)]
    assert ended == []


@pytest.mark.slow
def test_weights_that_were_written_anew_meanwhile_are_kept_alone(
    kvstore: RecordedKvstore, load: Load, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor
) -> None:
    """A conflict is said once; both go on with what each maps."""
    kvstore.start_with("cuda-vmm-fd")
    monkeypatch.setattr(hold, "RETRY_S", 0.01)
    first = load()
    with capture_logs() as lines:
        bring = hold.WeightsConnection.bring
        later: list[Model] = []

        def late(self: Any, *arguments: Any) -> None:
            monkeypatch.setattr(hold.WeightsConnection, "bring", bring)
            later.append(load())
            bring(self, *arguments)

        monkeypatch.setattr(hold.WeightsConnection, "bring", late)
        kvstore.kill()
        kvstore.start_with("cuda-vmm-fd")
        wait_for(lambda: [one for one in lines if one["event"] == "weights_not_brought"], "it is told", 60)
    assert rows(kvstore) == [("sealed", 1)]
    assert torch.equal(logits(first), logits(later[0]))
    assert right(first, expected)


def test_the_end_of_a_kvstore_ends_those_that_map_by_ipc(kvstore: RecordedKvstore, load: Load) -> None:
    """At once and with the reason: what they map is undefined from then on."""
    kvstore.start_with("cuda-ipc", mapped=True, grace_ms=300)
    ended: list[str] = []
    model = load(ended=ended)
    assert {rights(weight)[:4] for weight in model.module.parameters()} == {"rw-s"}
    assert model.weights_hold is not None
    held = model.weights_hold
    held.insist()
    assert not ended
    kvstore.kill()
    with pytest.raises(ContextPoisoned, match="owned the weights is gone"):
        wait_for(lambda: held.insist(), "it does not attach again")
    wait_for(lambda: ended, "it is to end")
    assert "the kvstore that owned the weights is gone" in ended[0]


class Mute:
    """A connection that counts what a writer says."""

    beats = 0

    def beat(self) -> None:
        self.beats += 1
        raise KvstoreUnreachable("gone")


def test_a_writer_is_heard_while_it_works() -> None:
    """Several times in the time that it may be silent, and not after; a lost kvstore is not its end."""
    connection = Mute()
    with beating(connection, 40):  # type: ignore[arg-type]
        wait_for(lambda: connection.beats > 3, "it is heard")
    assert "weights-beat" not in {thread.name for thread in threading.enumerate()}


@pytest.mark.slow
def test_a_manifest_that_fits_no_model_is_refused(
    kvstore: RecordedKvstore, load: Load, monkeypatch: pytest.MonkeyPatch, expected: torch.Tensor
) -> None:
    """A tensor that is not there, or one that no layer has: weights of its own, and nothing stays mapped."""
    kvstore.start_with("cuda-vmm-fd")
    load()
    whole = device_model.planned_tensors

    def torn(manifest: Any, memory: torch.Tensor) -> Any:
        table, tensors = whole(manifest, memory)
        return {**table, "held": [one for one in table["held"] if "norm" not in one[1]]}, tensors

    monkeypatch.setattr(device_model, "planned_tensors", torn)
    model = load()
    assert "the arena does not fit: ValueError: nothing was kept of" in model.weights_private
    assert right(model, expected)
    assert rows(kvstore) == [("sealed", 1)]


def test_a_model_that_cannot_be_shared_waits_for_no_other(
    kvstore: RecordedKvstore, load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights that stay quantised, or a model that cannot be made without its weights: no kvstore is asked."""
    monkeypatch.setattr(device_model, "claim_weights", None)
    with monkeypatch.context() as patch:
        patch.setattr(device_model, "settle_quantisation", lambda *_: "kept in fp8")
        assert "they are kept in fp8" in load().weights_private

    def odd(*_: Any) -> None:
        raise Unshared("transformers cannot make it without weights")

    monkeypatch.setattr(device_model, "bare_model", odd)
    assert "cannot make it without weights" in load().weights_private
    kvstore.start_with("cuda-vmm-fd")


def test_names_that_no_manifest_can_have_are_no_error() -> None:
    """Such a model is not shared."""
    with pytest.raises(Unshared, match="an arena cannot hold this model"):
        ArenaPlan({"layers": [], "held": [["parameter", "größe", 0]]}, [torch.ones(2)])
