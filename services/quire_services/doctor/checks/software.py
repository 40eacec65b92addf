"""What is installed: packages that the parts of a stack need, the compiled kernels of a CPU, libraries to preload."""

from __future__ import annotations

import os
from importlib.util import find_spec

from quire_proto import __version__
from quire_services.doctor.child_answer import ChildSilent, child_answer
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.probes import kernel_probe
from quire_services.doctor.scene import Scene
from quire_services.process.preload.environment import computes_on_cpu
from quire_services.process.preload.libraries import find

NEEDED = {
    "kvstore": ("numpy", "structlog"),
    "engine": ("torch", "transformers", "safetensors", "llguidance", "uvloop"),
    "gateway": ("fastapi", "uvicorn", "transformers", "tokenizers", "jinja2", "orjson", "prometheus_client"),
}
COMPILE_S = 10.0
HOW_TO_GET = {"OpenMP": "pip install intel-openmp", "allocator": "apt-get install libtcmalloc-minimal4"}


def check_packages(_: Scene) -> Findings:
    """Looked for, not imported."""
    for part, names in NEEDED.items():
        if absent := [name for name in names if find_spec(name) is None]:
            yield problem(
                "package-missing",
                f"no {part} can run here: {', '.join(absent)} not installed",
                f"pip install 'quire-kv[{part}]', unless that part runs elsewhere",
                part,
            )
    yield fact("packages", f"quire {__version__}")


def check_cpu_kernels(scene: Scene) -> Findings:
    """Compiled by a child, as an engine would do it; what it compiles is what the engines will find."""
    if scene.config.engine.attention == "triton":
        return
    try:
        answer = child_answer(kernel_probe.__name__, COMPILE_S)
    except ChildSilent as silent:
        answer = {"why": str(silent)}
    if why := answer["why"]:
        yield problem(
            "kernel-not-compiled",
            f"attention on this CPU falls back to PyTorch, which is slower: {why}",
            "install a C compiler (apt-get install gcc libc6-dev), or name one with CC; point XDG_CACHE_HOME to a"
            " directory of this user whose file system may execute",
            "engine.attention",
        )
    else:
        yield fact("cpu-kernels", "compiled for this processor")


def check_preload(scene: Scene) -> Findings:
    """Tried by children, as at an engine's start."""
    engine = scene.config.engine
    if not engine.preload or not computes_on_cpu(engine):
        return
    found = find(os.environ)
    for library in found:
        if library.why_not:
            yield problem(
                "preload-unusable",
                f"{library.path} cannot be preloaded: {library.why_not}",
                "put one for this machine in its place, or --preload=false; engines start without it",
                library.path,
            )
    taken = {library.kind: library.path for library in found if not library.why_not}
    absent = [f"no {kind} of its own ({how})" for kind, how in HOW_TO_GET.items() if kind not in taken]
    yield fact("preload", "an engine on this CPU is given " + ", ".join([*taken.values(), *absent]), "engine.preload")
