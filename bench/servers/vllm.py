"""vLLM's server under test, on its CPU build.

Settings are its documented defaults, and what its CPU page advises: tcmalloc and Intel's OpenMP preloaded. By default
it computes on all cores but one, which it leaves to its HTTP server; ``threads`` ("0-1", say) binds it otherwise.
Starting takes a minute or two (it compiles), so it stays up between pairs and its prefix cache is emptied.
"""

from __future__ import annotations

import contextlib
import json
import re
import urllib.request
from pathlib import Path
from typing import Self

from bench.load.generator import Endpoint
from bench.processes.side import PEERS, SideError, peer_python

from .server import HOST, Server, free_port, get, status


class Vllm(Server):
    """vLLM's OpenAI server on its CPU build."""

    name = "vllm"

    def __init__(self, model: Path, kv_bytes: int, threads: str, max_len: int, dtype: str) -> None:
        self._port, self._model, self._kv = free_port(), model.name, kv_bytes
        python = peer_python("vllm")
        gib = kv_bytes // 2**30
        if gib * 2**30 != kv_bytes or not gib:
            raise SideError("vLLM's CPU build takes whole GiB for its KV cache: choose --kv-gib accordingly")
        command = [str(python), "-m", "vllm.entrypoints.openai.api_server", f"--model={model}", f"--port={self._port}"]
        command += [f"--served-model-name={self._model}", f"--dtype={dtype}", f"--max-model-len={max_len}"]
        command += ["--enable-prompt-tokens-details"]
        preload = [str(PEERS / "vllm" / "lib" / "libiomp5.so"), *_tcmalloc()]
        environment = {
            "VLLM_TARGET_DEVICE": "cpu",
            "VLLM_CPU_KVCACHE_SPACE": str(gib),
            "VLLM_CPU_OMP_THREADS_BIND": threads,
            "VLLM_SERVER_DEV_MODE": "1",  # for /reset_prefix_cache
            "VLLM_NO_USAGE_STATS": "1",
            "HF_HUB_OFFLINE": "1",
            "LD_PRELOAD": ":".join(preload),
        }
        super().__init__(
            command,
            environment,
            {
                "threads": threads,
                "dtype": dtype,
                "kv_gib": gib,
                "preload": [Path(p).name for p in preload],
                "rest": "defaults",
            },
        )

    def __enter__(self) -> Self:
        super().__enter__()
        self.settings["threads_bound"] = self.bound_threads() or "unknown"
        with contextlib.suppress(OSError):  # a page that is missing is no reason not to measure
            self.settings["block_size"] = block_size(get(self._port, "/metrics")) or "unknown"
            self.settings["version"] = json.loads(get(self._port, "/version"))["version"]
        return self

    def ready(self) -> bool:
        """Its health page."""
        return status(self._port, "/health") == 200

    def target(self, isolated: bool) -> Endpoint:
        """Isolated: one ``cache_salt`` a tenant, as its documentation advises; open: none."""
        return Endpoint(
            HOST, self._port, self._model, lambda _: "none", lambda t: {"cache_salt": f"tenant-{t}"} if isolated else {}
        )

    def kv_bytes(self) -> float:
        """Its usage gauge, of the bytes it was given."""
        return usage(get(self._port, "/metrics")) * self._kv

    def forget(self) -> None:
        """Its endpoint for that."""
        request = urllib.request.Request(f"http://{HOST}:{self._port}/reset_prefix_cache", method="POST")
        with urllib.request.urlopen(request, timeout=30):
            pass


def usage(page: str) -> float:
    """Share of its blocks in use, by its metrics page."""
    found = re.search(r"^vllm:kv_cache_usage_perc\{[^}]*\} ([0-9.e+-]+)$", page, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def block_size(page: str) -> int:
    """Tokens in a block, by its metrics page; 0 where the page does not say."""
    found = re.search(r'^vllm:cache_config_info\{(?:[^}]*,)?block_size="(\d+)"', page, re.MULTILINE)
    return int(found.group(1)) if found else 0


def _tcmalloc() -> list[str]:
    return [str(path) for path in Path("/usr/lib").glob("*/libtcmalloc_minimal.so.4")]
