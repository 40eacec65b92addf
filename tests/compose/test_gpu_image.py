"""The image for GPUs, built and looked into: what a kvstore and an engine on a GPU would find in it.

Nothing runs on a GPU here. A file in the place of the driver's device stands for a GPU that is there; a library without
content for the driver that Triton's glue is linked with. Run by `make compose-test GPU=1` alone: torch's CUDA build is
gigabytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from quire_proto.wire.layout import Layout
from tests.compose.container_engine import NoEngine, container_engine
from tests.compose.project import Project
from tests.support.repository import ROOT

pytestmark = pytest.mark.timeout(3600)
if os.environ.get("COMPOSE_TEST") != "gpu":
    pytest.skip("run by `make compose-test GPU=1`", allow_module_level=True)

SECRETS = "compose.build.yaml"
LAYOUT = Layout("tiny", "w0", "{}", "", "bfloat16", 4, 2, 2, 8)
FACTS = """
import json, torch, triton, cuda.bindings.driver as driver
print(json.dumps({"cuda": torch.version.cuda, "bindings": driver.CUDA_VERSION, "triton": triton.__version__}))
"""
# What Triton does at its first launch, up to loading the result, which takes a driver.
GLUE = """
import pathlib, subprocess, sys
subprocess.run(["gcc", "-shared", "-x", "c", "/dev/null", "-o", "/tmp/libcuda.so.1"], check=True)
from triton.backends.nvidia import driver
from triton.runtime.build import _build
source = pathlib.Path(driver.dirname, "driver.c")
print(_build("glue", str(source), "/tmp", driver.library_dirs(), driver.include_dirs, driver.libraries, []))
"""


@pytest.fixture(scope="module")
def gpu() -> Iterator[Project]:
    """The image that compose.gpu.yaml starts, and the kvstore's without it, built."""
    try:
        with container_engine(ROOT / ".compose") as engine:
            project = Project(engine)
            more = {"BASE": engine.base, "TORCH_INDEX": "", "BUILD_NETWORK": "host"} if engine.base else {}
            certificates = Path("/etc/ssl/certs/ca-certificates.crt")
            more["CA_BUNDLE"] = str(certificates)
            project.compose("build", "engine", files=("compose.yaml", "compose.gpu.yaml", SECRETS), **more)
            project.compose("build", "kvstore", files=("compose.yaml", SECRETS), **more)
            yield project
    except NoEngine as reason:
        pytest.skip(str(reason))


def run(project: Project, *command: str, options: tuple[str, ...] = ()) -> str:
    """What a container of the image prints, confined as compose.yaml confines it, with nothing of a GPU in it."""
    confined = ("--rm", "--read-only", "--tmpfs", "/tmp:exec", "--cap-drop", "ALL", "--network", "none")
    return project.engine.docker("run", *confined, *options, *command)


def test_torch_and_bindings_are_for_the_same_cuda(gpu: Project) -> None:
    """torch is the build with CUDA, the driver's bindings are there and of the same major version, and so is Triton."""
    found = json.loads(run(gpu, "quire-gpu", "-c", FACTS, options=("--entrypoint=python3",)))

    assert found["cuda"]
    assert found["bindings"] // 1000 == int(found["cuda"].partition(".")[0])
    assert found["triton"]


def test_triton_can_compile_its_glue(gpu: Project) -> None:
    """The compiler and Python's headers are there: without either the first launch of a kernel fails."""
    options = ("--env=TRITON_LIBCUDA_PATH=/tmp", "--entrypoint=python3")

    assert run(gpu, "quire-gpu", "-c", GLUE, options=options).endswith(".so")


@pytest.mark.parametrize(
    ("image", "reason"), [("quire-gpu", "no CUDA driver"), ("quire-kvstore", "cuda-bindings is not installed")]
)
def test_a_gpu_that_cannot_be_used_stops_the_kvstore(gpu: Project, tmp_path: Path, image: str, reason: str) -> None:
    """With a GPU in its container no image's kvstore takes host memory by itself: it says what is missing."""
    (tmp_path / "nvidiactl").touch()
    (tmp_path / "prepared.json").write_text(json.dumps({"layout": asdict(LAYOUT), "published": []}))
    tmp_path.chmod(0o755)
    mounts = (f"--volume={tmp_path}/nvidiactl:/dev/nvidiactl:ro", f"--volume={tmp_path}:/prepared:ro")

    with pytest.raises(AssertionError, match=reason):
        run(gpu, image, "kvstore", "--run-dir=/tmp/run", "--prepared=/prepared/prepared.json", options=mounts)
