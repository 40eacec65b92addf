"""A stack and its admin API: what its engines do, and one of them drained."""

from __future__ import annotations

from typing import Any

import httpx

from tests.support.stack import Stack
from tests.support.waits import wait_for


class Operated:
    """A stack and its admin API."""

    def __init__(self, stack: Stack, port: int) -> None:
        self.url, self.log, self.stats = stack.url, stack.log, stack.stats
        token = (stack.run_dir / "admin.token").read_text().strip()
        headers, base = {"authorization": f"Bearer {token}"}, f"http://127.0.0.1:{port}/admin"
        self.admin = httpx.Client(base_url=base, headers=headers, timeout=30, trust_env=False)

    def rows(self) -> dict[str, dict[str, Any]]:
        """The engines, by name."""
        return {row["name"]: row for row in self.admin.get("/engines").json()["data"]}

    def count(self, name: str) -> int:
        """A counter of all engines."""
        return sum(row["counters"].get(name, 0) for row in self.rows().values())

    def ready(self, engines: int = 2) -> None:
        """Wait until so many engines can be given work."""
        wait_for(lambda: [r["state"] for r in self.rows().values()] == ["ready"] * engines, "all are ready", 90)

    def drain_and_undrain(self, pid: int) -> bool:
        """Have the engine that this process is hand over all that it has, and give it work again; whether it did.

        It does not if it has ended before, or no other can take it.
        """
        name = next((row["name"] for row in self.rows().values() if row["pid"] == pid), None)
        if name is None or self.admin.post(f"/engines/{name}/drain", json={}).status_code != 200:
            return False
        wait_for(lambda: self.rows().get(name, {}).get("state") != "being drained", f"{name} is drained", 60)
        done: bool = self.admin.post(f"/engines/{name}/undrain", json={}).status_code == 200
        return done
