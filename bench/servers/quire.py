"""Our server under test: ``quire serve`` with tenants and API keys on.

A workload's shared prompts are published over the admin API when the workload begins, inside the timed window, and
engines are told not to compute them unasked. Each workload of each pair gets a stack of its own, which begins empty.
"""

from __future__ import annotations

import json
import os
import sys
import urllib.request
from pathlib import Path
from typing import Any

from bench.load.agents import TENANTS
from bench.load.generator import Endpoint
from quire_kv import KVReader, Stats

from .server import HOST, Server, free_port, status


class Quire(Server):
    """``quire serve`` with eight tenants."""

    name = "quire"

    def __init__(
        self, model: Path, kv_bytes: int, block_bytes: int, options: dict[str, int], dtype: str = "float32"
    ) -> None:
        self._port, self._admin, self._block_bytes = free_port(), free_port(), block_bytes
        flags = {"blocks": kv_bytes // block_bytes, **options}
        settings: dict[str, Any] = {**flags, "dtype": dtype, "kv_gib": kv_bytes / 2**30, "tenants": TENANTS}
        settings["threads"] = options.get("threads") or max(1, (os.cpu_count() or 1) // options.get("engines", 1))
        flags |= {"port": self._port, "admin_port": self._admin}
        spelled = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        command = [
            sys.executable,
            "-P",
            "-m",
            "quire_services.cli",
            "serve",
            f"--model={model}",
            f"--dtype={dtype}",
            "--prefill=false",
        ]
        super().__init__([*command, *spelled], {"HF_HUB_OFFLINE": "1"}, settings)
        self._run_dir = self.directory / "run"
        self._command += [f"--config={self._configuration()}", f"--run-dir={self._run_dir}"]
        self._model = model.name
        self._reader: KVReader | None = None  # of the sampling thread: a new one each time would cost the kvstore more

    def _configuration(self) -> Path:
        lines = []
        for tenant in range(TENANTS):
            lines += ["[[tenants]]", f'name = "tenant-{tenant}"', f'keys = ["{self._key(tenant)}"]']
        file = self.directory / "quire.toml"
        file.write_text("\n".join(lines) + "\n")
        return file

    @staticmethod
    def _key(tenant: int) -> str:
        return f"key-of-tenant-{tenant}"

    def ready(self) -> bool:
        """The gateway is healthy: an engine is attached."""
        return status(self._port, "/health") == 200

    def target(self, isolated: bool) -> Endpoint:  # noqa: ARG002 - always so
        """Tenants are always isolated; the published prompts are shared on purpose."""
        return Endpoint(HOST, self._port, self._model, self._key, lambda _: {})

    def publish(self, prompts: tuple[str, ...]) -> None:
        """Put prompts into the public domain; raises OSError."""
        token = (self._run_dir / "admin.token").read_text().strip()
        for number, prompt in enumerate(prompts):
            request = urllib.request.Request(
                f"http://{HOST}:{self._admin}/admin/publications",
                json.dumps({"id": f"prompt-{number}", "domain": "public", "system": prompt}).encode(),
                {"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
            )
            with urllib.request.urlopen(request, timeout=30):
                pass

    def stats(self) -> Stats:
        """The kvstore's own counters."""
        if self._reader is None:
            self._reader = KVReader(self._run_dir)
        return self._reader.stats()

    def kv_bytes(self) -> float:
        """Held blocks."""
        return float(self.stats().blocks.get("held", 0) * self._block_bytes)

    def stop(self) -> None:
        """Stop the stack."""
        if self._reader is not None:
            self._reader.close()
            self._reader = None
        super().stop()

    def forget(self) -> None:
        """Nothing: a new stack begins empty."""
