"""``quire tenant``: the quotas of a running kvstore. ``set`` declares one, ``list`` shows all accounts.

Quotas are in blocks of the pool. They hold from the moment the command returns and are kept in the kvstore's state
directory. What ``set`` does not name stays as it was.
"""

from __future__ import annotations

import json
from argparse import Namespace
from dataclasses import asdict

from quire_proto.client import KVReader
from quire_proto.tenancy import TenantUsage

from . import flags
from .kvstore_call import ask


def main(argv: list[str]) -> int:
    """Entry of ``quire tenant``; returns the exit code."""
    parser = flags.Parser(prog="quire tenant", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    show = commands.add_parser("list", help="all accounts: what each has and may have")
    show.add_argument("--json", action="store_true", help="as one JSON array")
    change = commands.add_parser("set", help="declare the quota of a tenant")
    change.add_argument("tenant", metavar="NAME")
    change.add_argument("--limit", type=_blocks, metavar="BLOCKS", help="most it may have, cache included; 0: no limit")
    change.add_argument("--guarantee", type=_blocks, metavar="BLOCKS", help="what it can have whatever others do")
    change.add_argument("--weight", type=_blocks, metavar="N", help="its share of the cache beyond (default 100)")
    for command in (show, change):
        flags.add(command, "serve", "gateway", only=("run_dir", "port"))
    arguments = parser.parse_args(argv)
    run_dir = flags.read(parser, arguments).run_dir
    return ask(parser.prog, run_dir, lambda reader: _answer(reader, arguments))


def _answer(reader: KVReader, arguments: Namespace) -> str:
    rows = reader.tenants().tenants
    if arguments.command == "list":
        return json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else table(rows)
    now = next((row for row in rows if row.tenant == arguments.tenant), None)
    limit, guarantee, weight = (now.limit, now.guarantee, now.weight) if now else (0, 0, 100)
    quota = reader.quota(
        tenant=arguments.tenant,
        limit=limit if arguments.limit is None else arguments.limit,
        guarantee=guarantee if arguments.guarantee is None else arguments.guarantee,
        weight=weight if arguments.weight is None else arguments.weight,
    )
    return table([quota])


def table(rows: tuple[TenantUsage, ...] | list[TenantUsage]) -> str:
    """Accounts for a person; the quarantine and share domains have no quota."""
    lines = [
        f"{'tenant':<24}{'held':>8}{'cached':>8}{'limit':>8}{'guarantee':>11}{'weight':>8}"
        f"{'prompt tokens':>15}{'from cache':>12}"
    ]
    for row in rows:
        limit = str(row.limit) if row.limit else "-"
        weight = str(row.weight) if row.weight and not row.tenant.startswith("(") else "-"
        lines.append(
            f"{row.tenant:<24}{row.held:>8}{row.cached:>8}{limit:>8}{row.guarantee or '-':>11}{weight:>8}"
            f"{row.prompt_tokens:>15}{row.cached_tokens:>12}"
        )
    return "\n".join(lines)


def _blocks(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError("a count")
    return number
