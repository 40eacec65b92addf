"""A cluster on this machine, as ``quire cluster`` has it on a local Ray: tenants and one published prompt are declared
in a directory, and one entrance stands in front of all nodes.

Whatever is done to it is one of the commands that an operator has; what is read is what its entrance, its nodes' admin
API and its folders say.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import HTTPException
from pathlib import Path
from typing import Any, Self

from bench.load.agents import TENANTS
from bench.load.generator import Endpoint
from bench.processes.side import SideError
from bench.servers.server import HOST, free_port
from quire_services.config.process_table import read_process_table

COMMAND_S = 600.0
LOOK_S = 0.1
# In a process of its own, which Ray's nodes outlive as they outlive `quire cluster`.
_GROW = """
import sys
from quire_services.cluster.local_ray import LocalRay
LocalRay(sys.argv[1]).grow(int(sys.argv[2]), 1, 0)
"""


def key_of(tenant: int) -> str:
    """The key of a tenant by its number."""
    return f"key-of-tenant-{tenant}"


class LocalCluster:
    """One, as a context manager: down at the end.

    Args:
        folder: where its files are written.
        prompt: what is published to all tenants, as a system message.
        stack: settings of each node's stack.

    Attributes:
        began_s: seconds until all nodes served.
    """

    def __init__(
        self, name: str, folder: Path, prompt: str, stack: Mapping[str, Any], nodes: int, drain_s: float = 60
    ) -> None:
        self.name, self.port, self.began_s = name, free_port(), 0.0
        self.file, self.model = folder / "cluster.yaml", Path(str(stack["model"])).name
        self.store = f"file://{folder / 'store'}"
        (folder / "store").mkdir()
        (folder / "agent.txt").write_text(prompt)
        tenants = [f'[[tenants]]\nname = "tenant-{n}"\nkeys = ["{key_of(n)}"]\n' for n in range(TENANTS)]
        declared = folder / "declared.toml"
        declared.write_text("".join(tenants) + '[[published]]\nid = "agent"\nfile = "agent.txt"\n')
        self.quire("declare", "apply", str(declared), f"--store={self.store}")
        spec: dict[str, Any] = {"name": name, "ray": "local", "nodes": nodes, "stack": dict(stack)}
        spec |= {"resources": {"cpus": 1}, "drain_s": drain_s, "declarations": self.store}
        spec |= {"entrance": {"port": self.port, "router": "round-robin"}}
        self.file.write_text(json.dumps(spec))  # JSON is YAML

    def __enter__(self) -> Self:
        began = time.monotonic()
        try:
            self.up()
            self.began_s = time.monotonic() - began
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.down()

    # --- an operator's commands ----------------------------------------------------------------------------------

    @staticmethod
    def quire(*words: str) -> str:
        """What a command prints. Raises SideError if it fails."""
        command = [sys.executable, "-P", "-m", "quire_services.cli", *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=COMMAND_S, check=False)
        if done.returncode:
            raise SideError(f"quire {' '.join(words)}: {done.stdout}{done.stderr}")
        return done.stdout

    def up(self) -> str:
        """Until all nodes serve."""
        return self.quire("cluster", "up", str(self.file))

    def scale(self, nodes: int) -> str:
        """Until so many serve, and no other is there."""
        return self.quire("cluster", "scale", str(nodes), f"--file={self.file}")

    def down(self) -> str:
        """End all of it."""
        return self.quire("cluster", "down", f"--file={self.file}")

    def nodes(self) -> list[dict[str, Any]]:
        """As ``status`` lists them."""
        listed: list[dict[str, Any]] = json.loads(self.quire("cluster", "status", "--json", f"--file={self.file}"))[
            "nodes"
        ]
        return listed

    def with_machines(self, number: int) -> None:
        """Have Ray know so many machines, some of them free."""
        subprocess.run([sys.executable, "-P", "-c", _GROW, self.name, str(number)], timeout=COMMAND_S, check=True)

    # --- what it says --------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Of the entrance."""
        return f"http://{HOST}:{self.port}"

    def target(self) -> Endpoint:
        """Where agents come."""
        return Endpoint(HOST, self.port, self.model, key_of, lambda _: {})

    def states(self) -> dict[str, str]:
        """Nodes that the entrance knows, and what it takes them for."""
        with suppress(OSError, ValueError, HTTPException):
            with urllib.request.urlopen(f"{self.url}/health", timeout=30) as answer:
                return {name: node["state"] for name, node in json.load(answer)["nodes"].items()}
        return {}

    def wait(self, true: Callable[[], object], limit_s: float) -> float:
        """The moment at which it is. Raises TimeoutError."""
        until = time.monotonic() + limit_s
        while not true():
            if time.monotonic() > until:
                raise TimeoutError(f"not within {limit_s:g} s")
            time.sleep(LOOK_S)
        return time.monotonic()

    def said_of_losses(self) -> list[str]:
        """What controller and entrance have said of nodes that were given up, or gone under a request."""
        logs = Path(f"/tmp/quire-{os.getuid()}-ray-{self.name}/ray/session_latest/logs")
        lines = [line for log in sorted(logs.glob("worker-*")) for line in log.read_text(errors="replace").splitlines()]
        return [line for line in lines if line.startswith("controller: ") or '"node_gone"' in line]

    def run_dir(self, url: str) -> Path:
        """The run directory of the node that answers there. Raises LookupError."""
        for home in Path(tempfile.gettempdir()).glob(f"quire-{os.getuid()}-cluster-{self.name}.*"):
            gateway = read_process_table(home / "run").running().get("gateway")
            if gateway and url.endswith(f":{gateway.option('port')}"):
                return home / "run"
        raise LookupError(f"no node of this machine answers at {url}")

    def computed_tokens(self, node: Mapping[str, Any]) -> int:
        """What the engines of a node have computed since they were started, by their own count."""
        token = (self.run_dir(node["url"]) / "admin.token").read_text().strip()
        request = urllib.request.Request(
            f"{node['admin_url']}/admin/engines", headers={"Authorization": f"Bearer {token}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return sum(row["counters"].get("computed_tokens", 0) for row in json.load(answer)["data"])
