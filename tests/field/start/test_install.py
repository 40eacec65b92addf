"""It must install: pins that exist together on PyPI, and no CUDA where there is no GPU.

A simple index on the loopback stands for PyPI and for PyTorch's index of CPU wheels; pip and uv resolve against it as
they do elsewhere. Its wheels are empty, but for what they require.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pip
import pytest

from tests.support.repository import ROOT, script

TORCH = "torch==2.13.0"
CONFLICT = pytest.mark.source("ModelTC/LightLLM#95", "triton-lang/triton#3359")
CUDA = pytest.mark.source("pytorch/pytorch#146786")


def wheel(folder: Path, name: str, version: str, *requires: str) -> None:
    """A wheel of nothing but metadata."""
    folder.mkdir(parents=True, exist_ok=True)
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    with zipfile.ZipFile(folder / f"{name.replace('-', '_')}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


class Index:
    """Indexes under one root: ``/pypi`` with the CUDA build, ``/cpu`` with the CPU build; ``asked`` collects paths."""

    def __init__(self, root: Path) -> None:
        self.asked: list[str] = []
        asked = self.asked

        class Handler(SimpleHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                asked.append(self.path)

        self.root = root
        wheel(root / "pypi/torch", "torch", "2.13.0", "triton==3.7.1", "nvidia-cublas==13.1")
        for version in ("3.7.1", "3.9.0"):
            wheel(root / "pypi/triton", "triton", version)
        wheel(root / "pypi/nvidia-cublas", "nvidia-cublas", "13.1")
        wheel(root / "pypi/uses-torch", "uses-torch", "1.0", "torch>=2.11,<2.14")
        wheel(root / "pypi/pip", "pip", "26.3")
        wheel(root / "cpu/torch", "torch", "2.13.0+cpu")
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(root)))
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    """The indexes."""
    found = Index(tmp_path / "index")
    yield found
    found.close()


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    """No setting of this machine's pip, proxy or CI."""
    for name in list(os.environ):
        if name.startswith(("PIP_", "UV_")) or name.lower().endswith("_proxy") or name in ("CI", "TORCH_INDEX"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)


class Machine:
    """An empty environment with pip, the script that puts torch into it, and PyPI at ``/pypi``."""

    def __init__(self, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
        self.python = folder / "bin/python"
        (site,) = folder.glob("lib/python*/site-packages")
        (site / "pip").symlink_to(Path(pip.__file__).parent)
        self.script = script("install_torch")
        self.pip = [str(self.python), "-m", "pip", "--disable-pip-version-check", "--retries", "0"]
        monkeypatch.setattr(self.script, "PIP", self.pip)
        monkeypatch.setattr(self.script, "CPU_INDEX", f"{index.url}/cpu/")
        monkeypatch.setattr(self.script, "ROOT", index.root)
        (index.root / "constraints.txt").write_text(f"# exact\n{TORCH}\n")
        monkeypatch.setattr(self.script, "version", self._version)
        monkeypatch.setenv("PIP_INDEX_URL", f"{index.url}/pypi/")
        self._monkeypatch = monkeypatch

    def install(self, build: str) -> int:
        """Run the script."""
        self._monkeypatch.setattr(sys, "argv", ["install_torch.py", f"--build={build}"])
        code: int = self.script.main()
        return code

    def installed(self) -> dict[str, str]:
        """Versions by name."""
        command = [*self.pip, "list", "--format=freeze"]
        listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        return dict(line.split("==") for line in listed.split())

    def _version(self, name: str) -> str:
        raise self.script.PackageNotFoundError(name)


@pytest.fixture
def machine(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    """A machine that is not ours."""
    return Machine(index, tmp_path / "venv", monkeypatch)


@CUDA
def test_without_a_gpu_torch_comes_from_pytorchs_cpu_index_and_stays(machine: Machine, index: Index) -> None:
    """PyPI's build would bring CUDA: the CPU build is installed, and what requires torch afterwards leaves it there."""
    assert machine.install("cpu") == 0
    pinned = ["-c", index.root / "constraints.txt", "uses-torch"]
    subprocess.run([*machine.pip, "install", "-q", *pinned], check=True)

    assert machine.installed() == {"torch": "2.13.0+cpu", "uses-torch": "1.0"}


@CUDA
@pytest.mark.parametrize(
    "how",
    [
        "PIP_CONFIG_FILE",
        *(pytest.param(how, marks=pytest.mark.slow) for how in ("PIP_FIND_LINKS", "PIP_EXTRA_INDEX_URL")),
    ],
)
def test_a_configured_source_of_a_build_without_cuda_wins(
    machine: Machine, index: Index, how: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where pip is told of a CPU build by a variable or a file, that one is taken and PyTorch's index is not asked."""
    own = index.root / "own/torch"
    shutil.copytree(index.root / "cpu/torch", own)
    (tmp_path / "pip.conf").write_text(f"[global]\nfind-links = {own}\n")
    value = {"PIP_FIND_LINKS": str(own), "PIP_EXTRA_INDEX_URL": f"{index.url}/own/"}
    monkeypatch.setenv(how, value.get(how, str(tmp_path / "pip.conf")))

    assert machine.install("cpu") == 0
    assert machine.installed() == {"torch": "2.13.0+cpu"}
    assert not [path for path in index.asked if path.startswith("/cpu/")]


@CUDA
@pytest.mark.slow
def test_torch_index_names_the_only_source(machine: Machine, index: Index, monkeypatch: pytest.MonkeyPatch) -> None:
    """TORCH_INDEX beats what pip is configured with; nothing else is asked, so nothing else can be taken."""
    shutil.copytree(index.root / "cpu", index.root / "mine")
    wheel(index.root / "found", "torch", "2.13.0+zzz", "nvidia-cublas")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.root / "found"))
    monkeypatch.setenv("TORCH_INDEX", f"{index.url}/mine/")

    assert machine.install("cpu") == 0
    assert machine.installed() == {"torch": "2.13.0+cpu"}
    assert {path.split("/")[1] for path in index.asked} == {"mine"}


@CUDA
@pytest.mark.slow
@pytest.mark.parametrize(("build", "told"), [("gpu", None), ("cpu", "")])
def test_with_a_gpu_or_an_empty_variable_pip_decides(
    machine: Machine, build: str, told: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A machine with a GPU gets PyPI's build with all it requires, and so does one that asks for no index."""
    if told is not None:
        monkeypatch.setenv("TORCH_INDEX", told)

    assert machine.install(build) == 0
    assert machine.installed() == {"torch": "2.13.0", "triton": "3.7.1", "nvidia-cublas": "13.1"}


@CUDA
@pytest.mark.slow
def test_an_index_that_does_not_answer_is_named_and_nothing_is_installed(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """No silent fall back to CUDA: the index, the variable and what it can be set to are said."""
    with socket.socket() as deaf:  # bound, not listening
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setattr(machine.script, "CPU_INDEX", f"http://127.0.0.1:{deaf.getsockname()[1]}/cpu")
        assert machine.install("cpu") == 1

    said = capsys.readouterr().err
    assert "TORCH_INDEX" in said
    assert "/cpu" in said
    assert machine.installed() == {}


@CUDA
@pytest.mark.parametrize("sign", ["dev/nvidiactl", "proc/driver/nvidia", None])
def test_a_gpu_is_known_by_its_device_or_driver(
    sign: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either is enough; without them, and without nvidia-smi, there is none."""
    monkeypatch.setenv("PATH", str(tmp_path))
    if sign:
        (tmp_path / sign).mkdir(parents=True)

    assert script("install_torch").has_gpu(tmp_path) is bool(sign)


class Pins:
    """A small project with the check, and ``/pypi`` as PyPI."""

    def __init__(self, index: Index, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.script = script("check_pins")
        folder.mkdir()
        (folder / "pyproject.toml").write_text(
            '[project]\nname = "small"\nversion = "1"\nrequires-python = ">=3.11"\n'
            'classifiers = ["Programming Language :: Python :: 3.11", "Programming Language :: Python :: 3.12"]\n'
            "[project.optional-dependencies]\n"
            'engine = ["torch>=2.11"]\ngpu = ["small[engine]", "triton>=3.6", "pip; python_version>=\'3.12\'"]\n'
        )
        monkeypatch.setattr(self.script, "ROOT", folder)
        monkeypatch.setattr(self.script, "INDEX", ["--default-index", f"{index.url}/pypi"])
        self._file = folder / "constraints.txt"

    def check(self, *pins: str) -> int:
        """The script's exit code for these pins."""
        self._file.write_text("# exact\n" + "\n".join(pins) + "\n")
        code: int = self.script.main([])
        return code


@pytest.fixture
def pins(index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pins:
    """The small project."""
    return Pins(index, tmp_path / "project", monkeypatch)


GOOD = (TORCH, "triton==3.7.1", "nvidia_cublas==13.1", "pip==26.3")


@CONFLICT
def test_a_conflict_of_pins_fails_though_a_local_wheel_hides_it(
    pins: Pins, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Pins that exist together pass; torch beside a Triton it does not allow fails, whatever pip or uv are told of."""
    assert pins.check(*GOOD) == 0
    monkeypatch.setenv("PIP_FIND_LINKS", str(index.root / "cpu/torch"))
    monkeypatch.setenv("UV_FIND_LINKS", str(index.root / "cpu/torch"))
    (tmp_path / "pip.conf").write_text(f"[global]\nextra-index-url = {index.url}/cpu\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    capsys.readouterr()

    assert pins.check(*GOOD[:1], "triton==3.9.0", *GOOD[2:]) == 1
    said = capsys.readouterr().out
    assert "torch depend on triton==3.7.1" in said
    assert not [path for path in index.asked if path.startswith("/cpu/")]


@CONFLICT
@pytest.mark.slow
@pytest.mark.parametrize(
    ("given", "word"),
    [
        (GOOD[:2] + GOOD[3:], "installs nvidia-cublas 13.1, which has no pin"),
        (GOOD[:3], "Python 3.12 installs pip 26.3, which has no pin"),
        ((*GOOD, "uses-torch==1.0"), "uses-torch==1.0 is pinned and nothing installs it"),
        ((*GOOD[:2], "nvidia-cublas==14", GOOD[3]), "nvidia-cublas==14"),
    ],
)
def test_each_fault_of_a_pin_is_named(
    pins: Pins, given: tuple[str, ...], word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A missing pin, for one Python alone too, one that nothing installs, and one that does not exist."""
    assert pins.check(*given) == 1
    assert word in capsys.readouterr().out


@CONFLICT
@pytest.mark.slow
def test_without_an_index_the_check_is_skipped_with_the_reason_but_fails_in_ci(
    pins: Pins, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A desk without a network may go on; CI may not."""
    monkeypatch.setenv("UV_HTTP_RETRIES", "0")
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        monkeypatch.setattr(pins.script, "INDEX", ["--default-index", f"http://127.0.0.1:{deaf.getsockname()[1]}/pypi"])
        assert pins.check(*GOOD) == 0
        assert "pins: skipped, PyPI does not answer" in capsys.readouterr().err
        monkeypatch.setenv("CI", "true")
        assert pins.check(*GOOD) == 1


@CONFLICT
@pytest.mark.slow
def test_a_planted_conflict_fails_on_pypi_itself(tmp_path: Path) -> None:
    """The positive control of what `make check` runs: torch's pin beside the next Triton."""
    planted = tmp_path / "constraints.txt"
    text = (ROOT / "constraints.txt").read_text()
    planted.write_text(
        "".join("triton==3.6.0\n" if line.startswith("triton==") else line for line in text.splitlines(True))
    )
    command = [sys.executable, ROOT / "scripts/check_pins.py", planted]
    done = subprocess.run(command, capture_output=True, text=True, timeout=170, check=False)
    if done.stderr.startswith("pins: skipped"):
        pytest.skip(done.stderr)

    assert done.returncode == 1
    assert "depends on triton" in done.stdout
