"""The cluster's specification: ``cluster.yaml``, read whole and checked before anything is started.

    name: agents            # one cluster of that name in a Ray cluster
    ray: 10.0.0.5:6379      # or auto (the one that this machine is in), or local (one that is started here)
    nodes: 3
    config: quire.toml      # of each node: tenants, published prompts; as `quire serve --config` reads it
    stack: {model: /models/m, engines: 2, kv_gib: 8}      # settings of `quire serve`, by their flags' names
    resources: {cpus: 8, gpus: 1, memory_gib: 32}         # of one node's stack, the pool included
    drain_s: 60
    declarations: valkey://10.0.0.9:6379/0                # what is true on every node, in place of tenants in config
    entrance: {host: 0.0.0.0, port: 8080}                 # one address in front of all, on Ray's head node

A complaint names file, line and field. Settings of the stack are those of ``quire serve`` and nothing of their own: the
same loader checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quire_services.config.input_files import one_line, read_bytes
from quire_services.config.loader import ConfigError, load_config
from quire_services.config.settings import SECTIONS

from .entrance.entrance import DEFAULT_ROUTER, PROGRAMS

RAY_LOCAL, RAY_AUTO = "local", "auto"
MAX_SPEC_BYTES = 1 << 20
MAX_NODES = 256
_SECTION_OF = {spec.name: section for section, of in SECTIONS.items() for spec in fields(of)}
# What a node of a cluster is told by the cluster.
_OURS = {
    "run_dir": "each node has its own",
    "host": "say it as host, beside stack",
    "admin_port": "each node has one on its loopback",
    "admin_token_file": "each node makes its own",
    "keys_file": "say tenants in config",
    "drain_s": "say it as drain_s, beside stack",
    "log_format": "logs go through Ray",
    "declarations": "say it as declarations, beside stack",
    "node_name": "each node has its own",
}
_Scalar = str | int | float | bool


class SpecError(Exception):
    """The specification cannot be used; one line says where and why."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Resources(_Part):
    """What one node's stack is given by Ray. ``memory_gib`` 0: nothing is declared."""

    cpus: Annotated[float, Field(gt=0)] = 1
    gpus: Annotated[float, Field(ge=0)] = 0
    memory_gib: Annotated[float, Field(ge=0)] = 0


class EntranceSettings(_Part):
    """One address in front of all nodes, on Ray's head node; what ``quire entrance`` is told."""

    host: Annotated[str, Field(min_length=1)] = "127.0.0.1"
    port: Annotated[int, Field(ge=1, le=65535)] = 8080
    router: str = DEFAULT_ROUTER
    router_program: str = ""


class ClusterSpec(_Part):
    """A whole specification.

    Attributes:
        host: where a node's gateway listens; empty: the loopback on a local Ray, else the address Ray has for the node.
    """

    name: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]{0,31}$")] = "default"
    ray: Annotated[str, Field(min_length=1)] = RAY_AUTO
    nodes: Annotated[int, Field(ge=1, le=MAX_NODES)] = 1
    host: str = ""
    config: str = ""
    stack: dict[str, _Scalar]
    resources: Resources = Resources()
    drain_s: Annotated[float, Field(ge=0)] = 60
    declarations: str = ""
    entrance: EntranceSettings | None = None


def read_spec(file: Path) -> ClusterSpec:
    """The specification in a file, with its paths made absolute. Raises SpecError."""
    try:
        text = read_bytes(file, MAX_SPEC_BYTES).decode()
        lines, document = _lines(yaml.compose(text, yaml.SafeLoader)), yaml.safe_load(text)
    except OSError as error:
        raise SpecError(f"cannot read {file}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f"{file}:{mark.line + 1}" if mark else f"{file}"
        raise SpecError(f"{where}: no YAML: {one_line(getattr(error, 'problem', None) or str(error))}") from None
    if not isinstance(document, dict):
        raise SpecError(f"{file}: must be a mapping with nodes and stack")

    def complaint(path: tuple[Any, ...], why: str) -> SpecError:
        known = next(path[:count] for count in range(len(path), -1, -1) if path[:count] in lines)
        return SpecError(one_line(f"{file}:{lines[known]}: {'.'.join(map(str, path))}: {why}"))

    try:
        spec = ClusterSpec.model_validate(document)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        path = first["loc"][:2]
        why = "no such field" if first["type"] == "extra_forbidden" else first["msg"]
        raise complaint(path, why) from None
    return _checked(spec, file, complaint)


def _checked(spec: ClusterSpec, file: Path, complaint: Any) -> ClusterSpec:
    """The stack's settings as ``quire serve`` would take them."""
    for name in spec.stack:
        if name in _OURS:
            raise complaint(("stack", name), f"is not said here: {_OURS[name]}")
        if name not in _SECTION_OF:
            raise complaint(("stack", name), "no such setting of quire serve")
        try:
            load_config({f"{_SECTION_OF[name]}.{name}": flag_text(spec.stack[name])}, {})
        except ConfigError as error:
            raise complaint(("stack", name), str(error)) from None
    if not spec.stack.get("model"):
        raise complaint(("stack",), "model: missing")
    settings = dict(spec.stack)
    if (folder := file.parent / str(settings["model"])).is_dir():
        settings["model"] = str(folder.absolute())
    config = str((file.parent / spec.config).absolute()) if spec.config else ""
    flags = {f"{_SECTION_OF[name]}.{name}": flag_text(value) for name, value in settings.items()}
    try:
        whole = load_config(flags | ({"config": config} if config else {}), {})
    except ConfigError as error:
        raise complaint(("config" if config else "stack",), str(error)) from None
    in_host_memory = not spec.resources.gpus
    if spec.declarations and whole.tenants:
        raise complaint(("declarations",), f"tenants come from there: leave [[tenants]] out of {spec.config}")
    if spec.entrance and spec.entrance.router not in PROGRAMS:
        raise complaint(("entrance", "router"), f"is none of {', '.join(PROGRAMS)}")
    if spec.resources.memory_gib and in_host_memory and whole.kvstore.kv_gib >= spec.resources.memory_gib:
        raise complaint(("resources", "memory_gib"), f"the pool alone has {whole.kvstore.kv_gib:g} GiB")
    declarations = spec.declarations
    if declarations.startswith("@"):
        declarations = f"@{(file.parent / declarations[1:]).absolute()}"
    return spec.model_copy(update={"stack": settings, "config": config, "declarations": declarations})


def flag_text(value: _Scalar) -> str:
    """A setting as a flag has it."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _lines(node: yaml.Node | None, path: tuple[Any, ...] = ()) -> Mapping[tuple[Any, ...], int]:
    """The line of each field, by its path."""
    found = {path: node.start_mark.line + 1 if node else 1}
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            below = (*path, key.value)
            found |= {**_lines(value, below), below: key.start_mark.line + 1}
    return found
