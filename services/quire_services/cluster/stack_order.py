"""A stack's order: all that a node needs to start its stack, as one value that travels to it.

The configuration and the files that it names (published prompts, tools) travel as bytes, so that they need be on one
machine only; the model does not, and has to be found on each under the same path, or by its name on the hub.
"""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from quire_proto import __version__
from quire_services.config.input_files import read_bytes
from quire_services.config.loader import MAX_CONFIG_BYTES

from .declarations.stores.address import MAX_ADDRESS_BYTES
from .spec import RAY_LOCAL, ClusterSpec, SpecError, flag_text

CONFIG_FILE, ADDRESS_FILE = "quire.toml", "declarations.address"


@dataclass(frozen=True, slots=True)
class EntranceOrder:
    """What an entrance in front of all nodes is told."""

    host: str
    port: int
    router: str
    router_program: str


@dataclass(frozen=True, slots=True)
class StackOrder:
    """What each node of a cluster is to run.

    Attributes:
        cluster: the cluster's name.
        version: of Quire, which is to be the same on every node.
        files: by their path in the node's folder.
        flags: of ``quire serve``.
        host: where the gateway listens; empty: the node's address.
        resources: as Ray counts them.
        drain_s: what running requests have at a stop.
        declarations: the store's address, empty for none; one in a file travels as ``ADDRESS_FILE``.
        entrance: in front of all nodes; None for none.
    """

    cluster: str
    files: Mapping[str, bytes]
    flags: tuple[str, ...]
    host: str
    resources: Mapping[str, float]
    drain_s: float
    declarations: str = ""
    entrance: EntranceOrder | None = None
    version: str = __version__

    @property
    def digest(self) -> str:
        """Equal for equal orders."""
        files = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
        words = [self.cluster, files, self.flags, self.host, dict(self.resources), self.drain_s, self.version]
        words += [self.declarations, asdict(self.entrance) if self.entrance else None]
        return hashlib.sha256(json.dumps(words, sort_keys=True).encode()).hexdigest()


def order_of(spec: ClusterSpec) -> StackOrder:
    """The order of a specification. Raises SpecError for files that cannot travel."""
    files = _files_of(Path(spec.config)) if spec.config else {}
    declarations = spec.declarations
    if declarations.startswith("@"):
        files[ADDRESS_FILE] = _address(Path(declarations[1:]))
        declarations = f"@{ADDRESS_FILE}"
    settings = {"port": 0, **spec.stack}
    flags = [f"--{name.replace('_', '-')}={flag_text(value)}" for name, value in settings.items()]
    given = spec.resources
    resources = {"CPU": given.cpus, "GPU": given.gpus, "memory": given.memory_gib * 2**30}
    return StackOrder(
        spec.name,
        files,
        (*flags, f"--drain-s={spec.drain_s:g}", "--log-format=json"),
        spec.host or ("127.0.0.1" if spec.ray == RAY_LOCAL else ""),
        {name: amount for name, amount in resources.items() if amount},
        spec.drain_s,
        declarations,
        EntranceOrder(**spec.entrance.model_dump()) if spec.entrance else None,
    )


def _address(file: Path) -> bytes:
    try:
        return read_bytes(file, MAX_ADDRESS_BYTES)
    except OSError as error:
        raise SpecError(f"declarations: cannot read {file}: {error.strerror}") from None


def _files_of(config: Path) -> dict[str, bytes]:
    """The configuration and what it names. Only what lies beside or below it keeps its name on another machine."""
    try:
        text = read_bytes(config, MAX_CONFIG_BYTES)
        files = {CONFIG_FILE: text}
        for row in tomllib.loads(text.decode()).get("published", []):
            for name in (row[key] for key in ("file", "tools") if key in row):
                if Path(name).is_absolute() or ".." in Path(name).parts or name == CONFIG_FILE:
                    raise SpecError(f"{config}: published {name!r}: its file must lie below the configuration's folder")
                files[name] = read_bytes(config.parent / name, MAX_CONFIG_BYTES)
    except OSError as error:
        raise SpecError(f"cannot read {error.filename or config}: {error.strerror}") from None
    return files
