"""Our server under test: ``quire serve`` with tenants and API keys on, and a workload's shared prompts published.

Published prompts are configured, so each workload of each pair gets a stack of its own. Engines are told not to compute
them unasked: nothing of a prompt is there before the first request asks for it, and that lies inside the timed window.
"""

from __future__ import annotations

import sys
from pathlib import Path

from quire_proto.client import KVReader
from quire_proto.messages import Stats

from .agents import TENANTS
from .load import Target
from .servers import HOST, Server, free_port, status


class Quire(Server):
    """``quire serve`` with eight tenants and the shared prompts of a workload published."""

    name = "quire"

    def __init__(
        self, model: Path, kv_bytes: int, block_bytes: int, published: tuple[str, ...], options: dict[str, int]
    ) -> None:
        self._port, self._block_bytes = free_port(), block_bytes
        flags = {"blocks": kv_bytes // block_bytes, "port": self._port, **options}
        spelled = [f"--{name.replace('_', '-')}={value}" for name, value in flags.items()]
        command = [sys.executable, "-P", "-m", "quire_services.cli", "serve", f"--model={model}", "--prefill=false"]
        command += spelled
        super().__init__(command, {"HF_HUB_OFFLINE": "1"}, {**flags, "published": len(published), "tenants": TENANTS})
        self._run_dir = self.directory / "run"
        self._command += [f"--config={self._configuration(published)}", f"--run-dir={self._run_dir}"]
        self._model = model.name

    def _configuration(self, published: tuple[str, ...]) -> Path:
        lines = []
        for tenant in range(TENANTS):
            lines += ["[[tenants]]", f'name = "tenant-{tenant}"', f'keys = ["{self._key(tenant)}"]']
        for number, prompt in enumerate(published):
            (self.directory / f"prompt-{number}.txt").write_text(prompt)
            lines += ["[[published]]", f'file = "prompt-{number}.txt"']
        file = self.directory / "quire.toml"
        file.write_text("\n".join(lines) + "\n")
        return file

    @staticmethod
    def _key(tenant: int) -> str:
        return f"key-of-tenant-{tenant}"

    def ready(self) -> bool:
        """The gateway is healthy: an engine is attached."""
        return status(self._port, "/health") == 200

    def target(self, isolated: bool) -> Target:  # noqa: ARG002 - always so
        """Tenants are always isolated; the published prompts are shared on purpose."""
        return Target(HOST, self._port, self._model, self._key, lambda _: {})

    def stats(self) -> Stats:
        """The kvstore's own counters."""
        with KVReader(self._run_dir) as reader:
            return reader.stats()

    def kv_bytes(self) -> float:
        """Held blocks."""
        return float(self.stats().blocks.get("held", 0) * self._block_bytes)

    def forget(self) -> None:
        """Nothing: a new stack begins empty."""
