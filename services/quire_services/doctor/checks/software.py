"""What is installed: packages that the parts of a stack need, and the compiled kernels of a CPU."""

from __future__ import annotations

from importlib.util import find_spec

from quire_proto import __version__
from quire_services.doctor.child_answer import ChildSilent, child_answer
from quire_services.doctor.findings import Findings, fact, problem
from quire_services.doctor.probes import kernel_probe
from quire_services.doctor.scene import Scene

NEEDED = {
    "kvstore": ("numpy", "structlog"),
    "engine": ("torch", "transformers", "safetensors", "llguidance", "uvloop"),
    "gateway": ("fastapi", "uvicorn", "transformers", "tokenizers", "jinja2", "orjson", "prometheus_client"),
}
COMPILE_S = 10.0


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
