"""`quire doctor` on ports, the environment, compiled kernels, and what cannot answer."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from quire_services.doctor.checks.host import check_allocator, check_namespaces
from quire_services.doctor.checks.model import check_model
from quire_services.doctor.checks.ports import check_ports_free
from quire_services.doctor.checks.software import check_cpu_kernels, check_preload
from quire_services.doctor.findings import Finding
from quire_services.doctor.scene import Scene
from tests.support.doctor import found, ids, only, write_model
from tests.support.ports import free_port

# Of the packages that the client library and a kvstore do not need none can be imported.
WITHOUT_EXTRAS = """
import sys
for name in ("torch", "transformers", "safetensors", "llguidance", "uvloop", "fastapi", "starlette", "uvicorn",
             "tokenizers", "jinja2", "orjson", "prometheus_client", "pydantic", "cuda", "triton"):
    sys.modules[name] = None
from quire_services.cli.command import main
sys.exit(main(["doctor", "--json", *sys.argv[1:]]))
"""


def test_a_port_that_another_process_has(run_dir: Path) -> None:
    """The API's and the admin API's; free ones are none."""
    port, admin = free_port(), free_port()
    flags = {"port": port, "admin_port": admin, "run_dir": run_dir}
    for taken, setting in ((port, "gateway.port"), (admin, "gateway.admin_port")):
        with socket.create_server(("127.0.0.1", taken)):
            finding = only(found(check_ports_free, **flags), "port-taken")
            assert finding.where == setting
            assert f":{taken}" in finding.fix
    assert ids(found(check_ports_free, **flags)) == []


def test_an_address_that_is_not_of_this_machine(run_dir: Path) -> None:
    """Nothing could listen there."""
    assert ids(found(check_ports_free, host="192.0.2.7", port=free_port(), run_dir=run_dir)) == ["port-refused"]


def test_an_allocator_set_in_the_environment(run_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only what is about memory and threads is looked at, and shown."""
    for name in ("OMP_NUM_THREADS", "LD_PRELOAD", "PYTORCH_CUDA_ALLOC_CONF"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_TOKEN", "a-secret")
    assert ids(found(check_allocator, run_dir=run_dir)) == []
    monkeypatch.setenv("PYTORCH_CUDA_ALLOC_CONF", "expandable_segments:True")
    assert "expandable_segments" in only(found(check_allocator, run_dir=run_dir), "allocator-setting").seen


@pytest.mark.process
def test_kernels_that_cannot_be_compiled(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No compiler, or a cache directory that others may write to: the reason is told."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    (tmp_path / "quire").mkdir()
    (tmp_path / "quire").chmod(0o777)
    assert "others may write" in only(found(check_cpu_kernels, run_dir=run_dir), "kernel-not-compiled").seen
    monkeypatch.setenv("CC", str(tmp_path / "none"))
    assert "no C compiler" in only(found(check_cpu_kernels, run_dir=run_dir), "kernel-not-compiled").seen
    assert ids(found(check_cpu_kernels, run_dir=run_dir, attention="triton")) == []


@pytest.mark.process
def test_libraries_to_preload(run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What cannot be loaded is told with its reason, what is not there with the way to get it; on a GPU neither."""
    (tmp_path / "libiomp5.so").write_bytes(b"no library")
    monkeypatch.setenv("LD_LIBRARY_PATH", str(tmp_path))
    monkeypatch.setattr("quire_services.process.preload.libraries._system_folders", list)
    told = found(check_preload, run_dir=run_dir, attention="cpu")
    assert only(told, "preload-unusable").where == str(tmp_path / "libiomp5.so")
    facts = [finding.seen for finding in told if finding.id == "preload"]
    assert len(facts) == 1
    assert "apt-get install libtcmalloc-minimal4" in facts[0]
    assert list(found(check_preload, run_dir=run_dir, attention="triton")) == []
    assert list(found(check_preload, run_dir=run_dir, attention="cpu", preload=False)) == []


@pytest.mark.process
def test_it_runs_where_nothing_but_a_kvstore_is_installed(run_dir: Path) -> None:
    """No torch, no web server: what is not installed is a finding for each part that needs it, and no check fails."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", WITHOUT_EXTRAS, f"--run-dir={run_dir}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    parts = [f["where"] for f in json.loads(done.stdout)["findings"] if f["id"] == "package-missing"]
    assert parts == ["engine", "gateway"]
    assert "check-failed" not in done.stdout


def test_a_process_table_of_another_life(run_dir: Path) -> None:
    """Its pids mean nothing here, and that is said; no table is no finding."""
    assert ids(found(check_namespaces, run_dir=run_dir)) == []
    (run_dir / "processes.json").write_text('{"machine": "x", "pid_namespace": 1, "supervisor": {}, "processes": {}}')
    assert ids(found(check_namespaces, run_dir=run_dir)) == ["processes-unseen"]


def test_a_check_that_cannot_end_holds_up_no_other(run_dir: Path, tmp_path: Path) -> None:
    """A pipe in the place of a tokenizer waits for a writer for ever: the other checks are there all the same."""
    model = write_model(tmp_path / "model")
    (model / "tokenizer.json").unlink()
    os.mkfifo(model / "tokenizer.json")
    findings = found(check_model, check_namespaces, model=model, run_dir=run_dir, seconds=1.0)
    assert only(findings, "check-timeout").where == "model"
    assert "namespaces" in [finding.id for finding in findings]


def test_a_check_that_breaks_is_a_finding(run_dir: Path) -> None:
    """With what it had found before, and the rest of the examination."""

    def check_broken(_: Scene) -> Iterator[Finding]:
        raise ZeroDivisionError("on purpose")
        yield

    findings = found(check_broken, check_namespaces, run_dir=run_dir)
    assert only(findings, "check-failed").where == "broken"
    assert "namespaces" in [finding.id for finding in findings]
