"""The one configuration loader: flags > ``QUIRE_*`` environment > one TOML file > defaults.

Of the settings that say one thing in several ways (the pool's size) the strongest source that says any counts, and two
in one source are an error.

Invariants: every value is checked in one place (``_convert``), whatever its source; every complaint names the key
and where it came from; an unknown key is an error, never ignored, because a misspelt limit that is silently not
applied is found only in production. ``QUIRE_CONFIG`` or ``--config`` names the file.

    flags        {"kvstore.blocks": "4096"}         as ``flags.add`` collects them
    environment  QUIRE_KVSTORE_BLOCKS=4096
    file         [kvstore]
                 blocks = 4096
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from quire_kvstore.sharing.groups import RESERVED

from .input_files import read_bytes
from .key_digests import stored_digest
from .settings import POOL_SIZES, SECTIONS, Config, PublishedPrompt, Tenant

IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
MAX_CONFIG_BYTES = 1 << 22  # of a configuration
MAX_NUMBER = 2**31 - 1  # of a number without a bound of its own
FILE, ENVIRONMENT, FLAG = "file", "environment", "flag"
_SIZES = tuple(f"kvstore.{name}" for name in POOL_SIZES)
_NO_TEXT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_KINDS = {"str": "a string of one line", "int": "a whole number", "float": "a number", "bool": "true or false"}


class ConfigError(Exception):
    """The configuration is wrong; the message is one line for the person who wrote it."""


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value comes from: ``kind`` is one of file, environment and flag, ``where`` says which."""

    kind: str
    where: str

    def __str__(self) -> str:
        return self.where


_Values = dict[str, tuple[Any, Origin]]


def load_config(flags: Mapping[str, str], environ: Mapping[str, str]) -> Config:
    """The configuration from all sources; raises ConfigError.

    Args:
        flags: values of the command line, keyed ``section.field``; ``config`` names the file.
        environ: the environment; only ``QUIRE_*`` is looked at.
    """
    return load_with_origins(flags, environ)[0]


def load_with_origins(flags: Mapping[str, str], environ: Mapping[str, str]) -> tuple[Config, dict[str, Origin]]:
    """The same, and where each setting comes from that is no default, keyed ``section.field``."""
    named = flags.get("config") or environ.get("QUIRE_CONFIG")
    file = Path(named).absolute() if named else None
    document = _read(file) if file else {}
    values: _Values = {}
    for source in (_from_file(document, file) if file else {}, _from_environment(environ), _from_flags(flags)):
        _settle_size(source, values)
        values.update(source)
    config = Config(
        **{name: _section(name, values) for name in SECTIONS},
        tenants=_tenants(document.get("tenants", []), file),
        published=_published(document.get("published", []), file),
        file=file,
    )
    if config.gateway.admin_port and config.gateway.admin_port == config.gateway.port:
        raise ConfigError(
            f"gateway.admin_port: {config.gateway.port} is the port of the API (gateway.port): choose two"
        )
    return config, {key: origin for key, (_, origin) in values.items()}


def load_tenants(file: Path) -> tuple[Tenant, ...]:
    """Only the tenants of a file, for a gateway that reads its keys again while it runs; raises ConfigError."""
    return _tenants(_read(file).get("tenants", []), file)


# --- sources ---------------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(read_bytes(file, MAX_CONFIG_BYTES).decode())
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {file}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # not UTF-8, not TOML, a number or a nesting without end
        raise ConfigError(f"{file} is not TOML: {error}") from None


def _from_file(document: dict[str, Any], file: Path) -> _Values:
    values: _Values = {}
    for name, content in document.items():
        if name in ("tenants", "published"):
            continue
        if name not in SECTIONS:
            raise ConfigError(
                f"{name}: no such section (from {file}){_nearest(name, [*SECTIONS, 'tenants', 'published'])}"
            )
        if not isinstance(content, dict):
            raise ConfigError(f"{name}: must be a section, as in [{name}] (from {file})")
        for key, value in content.items():
            origin = Origin(FILE, f"{file}, [{name}]")
            _known(name, key, origin)
            values[f"{name}.{key}"] = (value, origin)
    return values


def _from_environment(environ: Mapping[str, str]) -> _Values:
    """An empty value stands for none, as compose files pass on what is not set; a text may be empty."""
    values: _Values = {}
    for variable, value in environ.items():
        if not variable.startswith("QUIRE_") or variable == "QUIRE_CONFIG":
            continue
        section, _, key = variable.removeprefix("QUIRE_").lower().partition("_")
        if section not in SECTIONS:
            raise ConfigError(f"{variable}: no such setting (from the environment)")
        origin = Origin(ENVIRONMENT, f"{variable} in the environment")
        _known(section, key, origin)
        if value or _may_be_empty(section, key):
            values[f"{section}.{key}"] = (value, origin)
    return values


def _from_flags(flags: Mapping[str, str]) -> _Values:
    return {
        key: (value, Origin(FLAG, "flag --" + key.partition(".")[2].replace("_", "-")))
        for key, value in flags.items()
        if key != "config"
    }


def _settle_size(source: _Values, weaker: _Values) -> None:
    """Drop what weaker sources say of the pool's size if this one says any. Raises ConfigError if it says two."""
    given = [key for key in _SIZES if key in source and not _is_zero(source[key][0])]
    if len(given) > 1:
        one, two = (f"{key} (from {source[key][1]})" for key in given[:2])
        raise ConfigError(f"{one} and {two}: the pool has one size, leave one of them out")
    for key in _SIZES if given else ():
        weaker.pop(key, None)


def _is_zero(value: Any) -> bool:
    """Whether a value, of a flag or a file, says that a size is said otherwise; what is no number is told later."""
    try:
        return float(value) == 0
    except (TypeError, ValueError, OverflowError):
        return False


def _known(section: str, key: str, source: Origin) -> None:
    names = [f.name for f in fields(SECTIONS[section])]
    if key not in names:
        raise ConfigError(f"{section}.{key}: no such key (from {source}){_nearest(key, names)}")


def _may_be_empty(section: str, key: str) -> bool:
    spec = next(f for f in fields(SECTIONS[section]) if f.name == key)
    return spec.type == "str" and not spec.metadata["among"]


def _nearest(word: str, names: list[str]) -> str:
    close = difflib.get_close_matches(word, names, n=1)
    return f"; did you mean {close[0]}?" if close else ""


# --- values ----------------------------------------------------------------------------------------------------


def _section(name: str, values: _Values) -> Any:
    section = SECTIONS[name]
    given = {}
    for spec in fields(section):
        if f"{name}.{spec.name}" in values:
            value, source = values[f"{name}.{spec.name}"]
            given[spec.name] = _convert(f"{name}.{spec.name}", spec, value, source)
    return section(**given)


def _convert(key: str, spec: Field[Any], value: Any, source: Origin) -> Any:
    kind = str(spec.type)
    try:
        converted = _parse(kind, value)
    except (ValueError, OverflowError):
        raise ConfigError(f"{key}: {value!r} is not {_KINDS[kind]} (from {source})") from None
    limits = spec.metadata
    if limits["among"] and converted not in limits["among"]:
        raise ConfigError(f"{key}: {value!r} is none of {', '.join(limits['among'])} (from {source})")
    if limits["at_least"] is not None and not converted >= limits["at_least"]:  # nan is neither
        raise ConfigError(f"{key}: {converted} is less than {limits['at_least']} (from {source})")
    most = MAX_NUMBER if limits["at_most"] is None else limits["at_most"]
    if kind in ("int", "float") and not converted <= most:
        raise ConfigError(f"{key}: {converted} is more than {most} (from {source})")
    return converted


def _parse(kind: str, value: Any) -> Any:
    """A value of the wanted kind; text (from flags and the environment) is read, TOML values must already fit."""
    if kind == "str" and isinstance(value, str) and not _NO_TEXT.search(value):
        return value
    if kind == "bool":
        words = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
        if isinstance(value, bool):
            return value
        if isinstance(value, str) and value.lower() in words:
            return words[value.lower()]
    if kind == "int" and isinstance(value, int | str) and not isinstance(value, bool):
        return int(value)
    if kind == "float" and isinstance(value, int | float | str) and not isinstance(value, bool):
        return float(value)
    raise ValueError(kind)


# --- tables ----------------------------------------------------------------------------------------------------


def _rows(name: str, rows: Any, file: Path | None, required: set[str], optional: set[str]) -> list[dict[str, Any]]:
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ConfigError(f"{name}: must be a list of tables, as in [[{name}]] (from {file})")
    for number, row in enumerate(rows, 1):
        where = f"(from {file}, [[{name}]] number {number})"
        for key in row:
            if key not in required | optional:
                raise ConfigError(f"{name}.{key}: no such key {where}{_nearest(key, sorted(required | optional))}")
        for key in sorted(required - set(row)):
            raise ConfigError(f"{name}.{key}: missing {where}")
        for key, value in row.items():
            if key not in ("keys", "groups") and not (isinstance(value, str) and value):
                raise ConfigError(f"{name}.{key}: must be a string that is not empty {where}")
    return rows


def _identifier(key: str, value: str, file: Path | None) -> str:
    if not IDENTIFIER.fullmatch(value):
        raise ConfigError(f"{key}: {value!r} must be 1 to 64 letters, digits or ._- (from {file})")
    return value


def _tenants(rows: Any, file: Path | None) -> tuple[Tenant, ...]:
    tenants: list[Tenant] = []
    owner: dict[bytes, str] = {}
    for row in _rows("tenants", rows, file, {"name", "keys"}, {"groups"}):
        name = _identifier("tenants.name", row["name"], file)
        keys = row["keys"]
        if not isinstance(keys, list) or not keys or not all(isinstance(k, str) and k.strip() for k in keys):
            raise ConfigError(f"tenants.keys: tenant {name} needs a list of API keys (from {file})")
        for key in keys:  # a key is a secret: name the tenants only
            try:
                digest = stored_digest(key)
            except ValueError as error:
                raise ConfigError(f"tenants.keys: tenant {name}: {error} (from {file})") from None
            if digest in owner:
                raise ConfigError(f"tenants.keys: tenants {owner[digest]} and {name} share an API key (from {file})")
            owner[digest] = name
        if any(name == other.name for other in tenants):
            raise ConfigError(f"tenants.name: {name!r} is there twice (from {file})")
        tenants.append(Tenant(name, tuple(keys), _groups(name, row.get("groups", []), file)))
    return tuple(tenants)


def _groups(tenant: str, groups: Any, file: Path | None) -> tuple[str, ...]:
    if not isinstance(groups, list) or not all(isinstance(group, str) for group in groups):
        raise ConfigError(f"tenants.groups: tenant {tenant} needs a list of groups (from {file})")
    if reserved := set(groups).intersection(RESERVED):
        raise ConfigError(f"tenants.groups: {min(reserved)!r} is reserved, no group (from {file}, tenant {tenant})")
    return tuple(_identifier("tenants.groups", group, file) for group in groups)


def _published(rows: Any, file: Path | None) -> tuple[PublishedPrompt, ...]:
    published: list[PublishedPrompt] = []
    for row in _rows("published", rows, file, {"file"}, {"domain", "id", "tools"}):
        assert file is not None  # rows come from a file
        prompt = file.parent / row["file"]
        identity = _identifier("published.id", row.get("id", prompt.stem), file)
        domain = _identifier("published.domain", row.get("domain", "public"), file)
        tools = file.parent / row["tools"] if "tools" in row else None
        if any(identity == other.id for other in published):
            raise ConfigError(f"published.id: {identity!r} is there twice (from {file})")
        published.append(PublishedPrompt(prompt, domain, identity, tools))
    return tuple(published)
