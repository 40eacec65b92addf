"""`quire doctor` in tests: single checks in this process, and the whole command as a process under limits."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from quire_services.doctor.examination import Check, examine
from quire_services.doctor.findings import Finding
from quire_services.doctor.scene import Scene
from tests.support.repository import child_environ

AS_ROOT = os.geteuid() == 0
needs_mounts = pytest.mark.skipif(not (AS_ROOT and shutil.which("unshare")), reason="only root mounts file systems")
# Root reads everything. In a user namespace of its own it is the owner of its files, and nothing more.
UNPRIVILEGED: tuple[str, ...] = ("unshare", "-U") if AS_ROOT else ()


def found(
    *checks: Check, environ: dict[str, str] | None = None, seconds: float = 30.0, **flags: object
) -> list[Finding]:
    """What checks find with these flags: ``found(check, run_dir=path, blocks=8)``."""
    sections = {"run_dir": "serve", "model": "serve", "engines": "serve", "host": "gateway", "port": "gateway"}
    sections |= {"admin_port": "gateway", "admin_token_file": "gateway", "attention": "engine", "preload": "engine"}
    sections |= {"weights_dir": "engine"}
    given = {"config" if k == "config" else f"{sections.get(k, 'kvstore')}.{k}": str(v) for k, v in flags.items()}
    return examine(Scene.of(given, environ or {}), seconds, checks)


def ids(findings: Sequence[Finding]) -> list[str]:
    """Their ids, without those of what is as it should be."""
    return [finding.id for finding in findings if finding.severity]


def only(findings: Sequence[Finding], name: str) -> Finding:
    """The one finding of this id; it has a fix, and is one printable line."""
    (finding,) = (finding for finding in findings if finding.id == name)
    assert finding.fix
    assert f"{finding.seen}{finding.fix}{finding.where}".isprintable()
    return finding


@dataclass(frozen=True, slots=True)
class Told:
    """What the command printed and how it ended."""

    code: int
    report: dict[str, Any]
    text: str

    @property
    def ids(self) -> set[str]:
        """Ids of all problems."""
        return {finding["id"] for finding in self.report["findings"] if finding["severity"] != "ok"}

    def seen(self, name: str) -> str:
        """What was seen of it."""
        return " ".join(finding["seen"] for finding in self.report["findings"] if finding["id"] == name)


def tell(*flags: object, before: Sequence[str] = (), shell: str = "", **environ: str) -> Told:
    """Run ``quire doctor --json``; ``before``: a program that starts it; ``shell``: what is done in a mount namespace
    of its own first."""
    command = [sys.executable, "-P", "-m", "quire_services.cli", "doctor", "--json", *map(str, flags)]
    if shell:
        before = ("unshare", "-m", "sh", "-ec", f'{shell}\nexec "$@"', "sh", *before)
    done = subprocess.run(
        [*before, *command], capture_output=True, text=True, env=child_environ(**environ), timeout=120, check=False
    )
    assert done.stderr == "", done.stderr
    return Told(done.returncode, json.loads(done.stdout), done.stdout)


def write_model(directory: Path, layers: int = 1) -> Path:
    """A model directory of a few bytes that is whole, as far as that shows from outside."""
    directory.mkdir(exist_ok=True)
    sizes = {"num_hidden_layers": layers, "num_key_value_heads": 1, "num_attention_heads": 1, "head_dim": 8}
    (directory / "config.json").write_text(json.dumps({"model_type": "llama", **sizes}))
    (directory / "tokenizer.json").write_text("{}")
    write_weights(directory / "model.safetensors", [4, 4])
    return directory


def write_weights(file: Path, shape: list[int]) -> None:
    """A file of one tensor that is zero everywhere, and takes no place on the disk."""
    size = 4 * shape[0] * shape[1]
    header = json.dumps({"w": {"dtype": "F32", "shape": shape, "data_offsets": [0, size]}}).encode()
    with file.open("wb") as out:
        out.write(len(header).to_bytes(8, "little") + header)
        out.truncate(8 + len(header) + size)
