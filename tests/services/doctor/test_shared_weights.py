"""`quire doctor` on weights that engines share, or would if they could."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from quire_kv import KVClient, WeightsConnection
from quire_kvstore.host.attach_socket import start_ticks
from quire_proto.messages.weights import ReadWeights
from quire_services.config.process_table import ProcessEntry, ProcessTable
from quire_services.doctor.checks.model import check_model
from quire_services.doctor.checks.shared_weights import check_shared_weights
from tests.kvstore.host.cuda_arena.recorder import Recorder, recorded_driver
from tests.kvstore.host.cuda_arena.stack import LAYOUT, recorded_kvstore
from tests.support.children import python_child
from tests.support.doctor import found, ids, only, write_model, write_weights

SIZE = 4 * 4096 * 2048  # bytes of the model's weights
# Maps files, as an engine does.
MAPS = """
import mmap, sys
files = [open(name, "rb") for name in sys.argv[1:]]
kept = [mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) for file in files]
print("mapped", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Large enough to be shared."""
    directory = write_model(tmp_path / "model")
    write_weights(directory / "model.safetensors", [4096, 2048])
    return directory


@pytest.fixture
def entry(tmp_path: Path) -> Path:
    """A file as an engine maps it."""
    file = tmp_path / "weights" / f"{'0' * 32}.weights"
    file.parent.mkdir(mode=0o700)
    file.write_bytes(bytes(4096))
    return file


@pytest.fixture
def segment() -> Iterator[Path]:
    """What all engines map that are attached."""
    file = Path("/dev/shm") / f"quire-{os.getpid():032x}"
    file.write_bytes(bytes(4096))
    yield file
    file.unlink()


@contextmanager
def engine(run_dir: Path, name: str, *files: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that maps files, under an engine's name."""
    with python_child(MAPS, *map(str, files), says="mapped") as process:
        table = ProcessTable(run_dir)
        table.enter(name, ProcessEntry(process.pid, start_ticks(process.pid), list(map(str, process.args))))
        yield process


def said(model: Path, run_dir: Path, place: object) -> list[str]:
    """What is as it should be."""
    findings = found(check_shared_weights, model=model, run_dir=run_dir, weights_dir=place)
    assert ids(findings) == []
    return [finding.seen for finding in findings]


def test_before_a_start_the_place_is_looked_at(model: Path, run_dir: Path, tmp_path: Path) -> None:
    """It is not made; small models, and a setting that says so, need none."""
    place = tmp_path / "there" / "weights"
    assert said(model, run_dir, place) == ["one copy for all engines"]
    assert not place.parent.exists()
    assert "engine.weights_dir is none" in said(model, run_dir, "none")[0]
    assert "not worth a file" in said(write_model(tmp_path / "small"), run_dir, place)[0]


@pytest.mark.parametrize("fault", ["open to others", "a file", "full"])
def test_what_is_in_the_way_is_found(model: Path, run_dir: Path, tmp_path: Path, fault: str) -> None:
    """And each engine's copy counts, then, where memory is looked at."""
    place = tmp_path / "weights"
    if fault == "open to others":
        place.mkdir()
        place.chmod(0o777)
    elif fault == "a file":
        place.write_text("")
    else:
        write_weights(model / "model.safetensors", [1 << 18, 1 << 20])
    flags = {"model": model, "run_dir": run_dir, "weights_dir": place}
    problem = only(found(check_shared_weights, **flags), "weights-not-shared")
    assert str(place) in problem.seen
    if fault == "full":
        assert (
            "3 engines take 3,298,534,883,328 bytes"
            in only(found(check_model, engines=3, **flags), "weights-exceed-memory").seen
        )


@pytest.mark.process
def test_engines_that_run_are_looked_at(model: Path, run_dir: Path, entry: Path, segment: Path) -> None:
    """Who maps the one copy is named, and so is who does not; one that has not loaded yet is neither."""
    with engine(run_dir, "engine-1", segment, entry):
        assert said(model, run_dir, entry.parent) == ["one copy of 4,096 bytes, mapped by engine-1"]
    with engine(run_dir, "engine-1", segment):
        flags = {"model": model, "run_dir": run_dir, "weights_dir": entry.parent}
        assert "engine-1: 33,554,432 bytes" in only(found(check_shared_weights, **flags), "weights-not-shared").seen
    with engine(run_dir, "engine-1"):
        assert said(model, run_dir, entry.parent) == ["one copy for all engines"]


@pytest.mark.process
def test_on_a_gpu_the_kvstore_is_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """How large the one copy is and how many map it; engines beyond those have weights of their own."""
    run_dir = tmp_path / "run"
    flags = {"run_dir": run_dir, "attention": "triton"}
    assert found(check_shared_weights, **flags) == []
    with recorded_kvstore(run_dir) as kvstore, recorded_driver(monkeypatch, Recorder()):
        kvstore.start_with("cuda-vmm-fd")
        writer = WeightsConnection(run_dir, 20)
        writer.claim(b"key")
        writer.make(4096)
        writer.seal(())
        with KVClient(run_dir, name="engine-1", layout=LAYOUT), KVClient(run_dir, name="engine-2", layout=LAYOUT):
            one = found(check_shared_weights, **flags)
            assert "1 of 2 engines have weights of their own" in only(one, "weights-not-shared").seen
            reader = WeightsConnection(run_dir, 20)
            assert isinstance(reader.claim(b"key"), ReadWeights)
            both = found(check_shared_weights, **flags)
            assert [finding.seen for finding in both] == [
                "one copy of 4,096 bytes on the GPU (cuda-vmm-fd), mapped by 2 processes"
            ]
            reader.release()
        writer.release()
    (fact,) = found(check_shared_weights, **flags, share_weights="false")
    assert fact.seen == "each engine has its own: kvstore.share_weights is false"
