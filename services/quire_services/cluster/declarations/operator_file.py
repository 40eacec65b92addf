"""The operator's file: what is declared, as one TOML document, and what of it a store does not have yet.

    [[tenants]]
    name = "acme"
    keys = ["sk-acme-1", "sha256:..."]       # stored as digests
    groups = ["research"]
    limit = 4096                             # blocks of the whole cluster; 0 or nothing: none
    guarantee = 512
    weight = 200

    [[published]]
    id = "agent"
    domain = "public"
    file = "agent.txt"                       # beside this file
    tools = "tools.json"

An unknown word is an error. Nothing of it is a key in clear once it is a record.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from quire_kvstore.sharing.groups import RESERVED
from quire_services.config.input_files import read_bytes
from quire_services.config.key_digests import stored_digest
from quire_services.config.loader import IDENTIFIER, MAX_CONFIG_BYTES, MAX_NUMBER

from .records import KEY, MEMBER, PUBLICATION, QUOTA, TENANT, Change, Record, Records

Name = Annotated[str, Field(pattern=f"^{IDENTIFIER.pattern}$")]
Number = Annotated[int, Field(ge=0, le=MAX_NUMBER)]
Values = dict[tuple[str, str], dict[str, Any]]
_MAX_PROMPT_BYTES = 1 << 22


class FileError(Exception):
    """The file cannot be used; one line says why."""


class _Part(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class TenantPart(_Part):
    """``[[tenants]]``."""

    name: Name
    keys: list[Annotated[str, Field(min_length=1)]] = []
    groups: list[Name] = []
    limit: Number = 0
    guarantee: Number = 0
    weight: Annotated[int, Field(ge=1, le=10_000)] = 100


class PublishedPart(_Part):
    """``[[published]]``."""

    id: Name
    file: str
    domain: Name = "public"
    tools: str = ""


class Document(_Part):
    """The file."""

    tenants: list[TenantPart] = []
    published: list[PublishedPart] = []


def read_operator_file(file: Path) -> Values:
    """What a file declares, by kind and name. Raises FileError."""
    try:
        document = Document.model_validate(tomllib.loads(read_bytes(file, MAX_CONFIG_BYTES).decode()))
        values: Values = {}
        for tenant in document.tenants:
            _put(values, _of_tenant(tenant))
        for published in document.published:
            _put(values, [(PUBLICATION, published.id, _of_published(published, file.parent))])
    except OSError as error:
        raise FileError(f"cannot read {error.filename or file}: {error.strerror}") from None
    except ValidationError as error:
        first = error.errors(include_input=False)[0]  # which may be a key
        raise FileError(f"{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}") from None
    except (ValueError, RecursionError) as error:
        raise FileError(f"{file}: {error}") from None
    return values


def changes_to(values: Mapping[tuple[str, str], dict[str, Any]], records: Records, *, prune: bool) -> list[Change]:
    """The writes that make a store say this; with ``prune``, tombstones for all that it says beyond."""
    changes = []
    for (kind, name), value in values.items():
        have = records.get(f"{kind}/{name}")
        if have is None or have.value != value:
            changes.append(Change(kind, name, value, have.version if have else 0))
    if prune:
        changes += [tombstone(record) for record in beyond(values, records)]
    return changes


def beyond(values: Mapping[tuple[str, str], dict[str, Any]], records: Records) -> list[Record]:
    """Records that are declared and not in the file."""
    return [r for r in records.values() if r.value is not None and (r.kind, r.name) not in values]


def tombstone(record: Record) -> Change:
    """The write that deletes a record."""
    return Change(record.kind, record.name, None, record.version)


def _of_tenant(tenant: TenantPart) -> Iterator[tuple[str, str, dict[str, Any]]]:
    yield TENANT, tenant.name, {}
    for key in tenant.keys:
        try:
            yield KEY, stored_digest(key).hex(), {"tenant": tenant.name}
        except ValueError as error:
            raise ValueError(f"tenant {tenant.name}: {error}") from None
    for group in tenant.groups:
        if group in RESERVED:
            raise ValueError(f"tenant {tenant.name}: {group!r} is reserved, no group")
        yield MEMBER, f"{group}/{tenant.name}", {"group": group, "tenant": tenant.name}
    if tenant.limit and tenant.guarantee > tenant.limit:
        raise ValueError(f"tenant {tenant.name}: a guarantee of {tenant.guarantee} is more than the limit")
    quota = {"tenant": tenant.name, "limit": tenant.limit, "guarantee": tenant.guarantee, "weight": tenant.weight}
    if (tenant.limit, tenant.guarantee, tenant.weight) != (0, 0, 100):
        yield QUOTA, tenant.name, quota


def _of_published(published: PublishedPart, folder: Path) -> dict[str, Any]:
    value: dict[str, Any] = {"domain": published.domain}
    value["system"] = read_bytes(folder / published.file, _MAX_PROMPT_BYTES).decode()
    value["tools"] = json.loads(read_bytes(folder / published.tools, _MAX_PROMPT_BYTES)) if published.tools else None
    if not value["system"]:
        raise ValueError(f"published {published.id}: {published.file} is empty")
    return value


def _put(values: Values, rows: Iterable[tuple[str, str, dict[str, Any]]]) -> None:
    for kind, name, value in rows:
        if (kind, name) in values:
            what = "a key" if kind == KEY else f"{kind} {name!r}"  # what a key's digest is tells nothing, nor helps
            raise ValueError(f"{what} is there twice")
        values[kind, name] = value
