"""``quire config show``: every setting, its value, and where that comes from.

As ``quire serve`` would read them here: defaults, the file, the environment, and the flags that are given to this
command. What it shows may be pasted into a report: API keys are counted, never shown.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from quire_services.config.loader import Origin
from quire_services.config.settings import SECTIONS, Config, Tenant
from quire_services.process import flags

_DEFAULT = "default"


@dataclass(frozen=True, slots=True)
class ShownSetting:
    """One setting; ``origin``: default, file, environment or flag, ``where``: which one, empty for a default."""

    key: str
    value: Any
    origin: str
    where: str


def main(argv: list[str]) -> int:
    """Entry of ``quire config``; returns the exit code."""
    parser = flags.Parser(prog="quire config", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("show", help="every setting, its value, and where that comes from")
    show.add_argument("--json", action="store_true", help="as one JSON object")
    show.add_argument("--changed", action="store_true", help="only what is not a default")
    flags.add(show, *SECTIONS)
    arguments = parser.parse_args(argv)
    config, origins = flags.read_config_with_origins(parser, arguments)
    shown = [row for row in shown_settings(config, origins) if row.origin != _DEFAULT or not arguments.changed]
    sys.stdout.write((_as_json(config, shown) if arguments.json else _as_text(config, shown)) + "\n")
    return 0


def shown_settings(config: Config, origins: Mapping[str, Origin]) -> Iterator[ShownSetting]:
    """All settings in the order of the sections."""
    for section, settings in SECTIONS.items():
        for spec in fields(settings):
            key = f"{section}.{spec.name}"
            origin = origins.get(key, Origin(_DEFAULT, ""))
            yield ShownSetting(key, getattr(getattr(config, section), spec.name), origin.kind, origin.where)


def _as_json(config: Config, shown: list[ShownSetting]) -> str:
    content = {
        "file": str(config.file) if config.file else None,
        "run_dir": str(config.run_dir),
        "settings": {row.key: {"value": row.value, "origin": row.origin, "where": row.where} for row in shown},
        "tenants": [
            {"name": tenant.name, "keys": len(tenant.keys), "groups": list(tenant.groups)} for tenant in config.tenants
        ],
        "published": [{"id": p.id, "domain": p.domain, "file": str(p.file)} for p in config.published],
    }
    return json.dumps(content, indent=2)


def _as_text(config: Config, shown: list[ShownSetting]) -> str:
    """For a person, in the form of the file: what is a comment there says where a value comes from."""
    lines = [f"# configuration file: {config.file or 'none'}; run directory: {config.run_dir}"]
    section = ""
    for row in shown:
        name, _, key = row.key.partition(".")
        if name != section:
            lines += ["", f"[{name}]"]
            section = name
        lines.append(f"{f'{key} = {json.dumps(row.value, ensure_ascii=False)}':<48}  # {row.where or row.origin}")
    for tenant in config.tenants:
        lines += ["", "[[tenants]]", *_tenant(tenant, config)]
    for prompt in config.published:
        lines += ["", "[[published]]", f"id = {json.dumps(prompt.id)}", f"domain = {json.dumps(prompt.domain)}"]
        lines += [f"file = {json.dumps(str(prompt.file))}"]
    return "\n".join(lines)


def _tenant(tenant: Tenant, config: Config) -> list[str]:
    keys = f"# {len(tenant.keys)} {'key' if len(tenant.keys) == 1 else 'keys'}, in {config.file}"
    groups = [f"groups = {json.dumps(list(tenant.groups))}"] if tenant.groups else []
    return [f"name = {json.dumps(tenant.name)}", keys, *groups]
