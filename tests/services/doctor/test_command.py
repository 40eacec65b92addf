"""The command as it is run: on a host with little of everything, and on one where all is well."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.doctor import UNPRIVILEGED, needs_mounts, tell, write_model
from tests.support.ports import free_port
from tests.support.quire_command import prepared

pytestmark = [pytest.mark.process, needs_mounts]
# A mount namespace gets the node of a driver that is not there.
GPU = """
mkdir {there}
mount --rbind /dev {there}
mount -t tmpfs -o mode=755 tmpfs /dev
for node in null zero random urandom; do touch /dev/$node; mount --bind {there}/$node /dev/$node; done
mkdir /dev/shm
mount --bind {there}/shm /dev/shm
touch /dev/nvidiactl
chmod 666 /dev/nvidiactl
"""
# And little of everything else.
SMALL = (
    GPU
    + """
mount -t tmpfs -o size=1m tmpfs /dev/shm
cp {run_dir}/prepared.json {there}.json
mount -t tmpfs -o size=4m,mode=700 tmpfs {run_dir}
cp {there}.json {run_dir}/prepared.json
mount -o remount,ro {run_dir}
prlimit --pid $$ --nofile=256 --nproc=40 --as=16000000000 --fsize=1048576
"""
)


def test_a_host_with_little_of_everything(tmp_path: Path, run_dir: Path) -> None:
    """A small /dev/shm, limits of files, tasks, address space and file size, a model that cannot be read, a run
    directory that cannot be written to, a GPU without a driver: one examination finds all of them and ends with 2."""
    prepared(run_dir)
    model = write_model(tmp_path / "model")
    (model / "model.safetensors").chmod(0)
    told = tell(
        f"--run-dir={run_dir}", f"--model={model}", "--blocks=100000", f"--port={free_port()}",
        before=UNPRIVILEGED, shell=SMALL.format(run_dir=run_dir, there=tmp_path / "dev"), CUDA_VISIBLE_DEVICES="0",
    )  # fmt: skip
    expected = {
        "shm-small", "open-files-low", "tasks-low", "address-space-limited", "file-size-limited", "model-unreadable",
        "run-dir-unwritable", "gpu-unusable",
    }  # fmt: skip
    assert expected - told.ids == set()
    assert told.code == 2
    assert told.report["severity"] == "error"
    assert all(finding["fix"] for finding in told.report["findings"] if finding["severity"] != "ok")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("shell", "environ", "name"),
    [
        ("mount -t tmpfs -o size=4m tmpfs /dev/shm; head -c 3500000 /dev/zero > /dev/shm/other", {}, "shm-full"),
        ("mount -t tmpfs -o size=2t tmpfs /dev/shm", {"QUIRE_KVSTORE_BLOCKS": str(2**31 - 1)}, "memory-short"),
        ("mount -t tmpfs -o ro,size=64m tmpfs /dev/shm", {}, "shm-unusable"),
        ("mount -t tmpfs -o size=64k,mode=700 tmpfs {run_dir}", {}, "run-dir-unwritable"),
        ("mount -t tmpfs -o size=64m tmpfs /dev/shm; " + GPU, {"CUDA_VISIBLE_DEVICES": ""}, "gpu-hidden"),
        ("mount -t tmpfs -o size=64m tmpfs /dev/shm; " + GPU + "chmod 0 /dev/nvidiactl", {}, "gpu-node-forbidden"),
    ],
)
def test_one_fault_of_a_host(run_dir: Path, tmp_path: Path, shell: str, environ: dict[str, str], name: str) -> None:
    """Each is found by itself; that none of them is there on a healthy host is shown below."""
    prepared(run_dir)
    shell = shell.format(run_dir=run_dir, there=tmp_path / "dev")
    told = tell(f"--run-dir={run_dir}", before=UNPRIVILEGED, shell=shell, **environ)
    assert name in told.ids


def test_a_host_where_all_is_well(tmp_path: Path, run_dir: Path) -> None:
    """Nothing but infos, and 0; and the form of the report, which programs rely on."""
    prepared(run_dir)
    told = tell(
        f"--run-dir={run_dir}", f"--model={write_model(tmp_path / 'model')}", "--blocks=8", f"--port={free_port()}",
        shell="mount -t tmpfs -o size=64m tmpfs /dev/shm",
    )  # fmt: skip
    problems = {finding["id"]: finding["severity"] for finding in told.report["findings"]}
    assert set(problems.values()) <= {"ok", "info"}, told.text
    assert told.code == 0
    assert told.report.keys() == {"format", "version", "run_dir", "severity", "findings"}
    assert told.report["format"] == 1
    assert {tuple(finding) for finding in told.report["findings"]} == {("id", "severity", "seen", "fix", "where")}
    assert json.loads(told.text) == told.report
