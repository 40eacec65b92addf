"""``quire tenant``: the quotas of a running kvstore. ``set`` declares one, ``list`` shows all accounts.

Quotas are in blocks of the pool. They hold from the moment the command returns and are kept in the kvstore's state
directory. What ``set`` does not name stays as it was.
"""

from __future__ import annotations

import json
from argparse import ArgumentTypeError, Namespace
from dataclasses import asdict

from quire_kv import KVReader, TenantUsage
from quire_services.config.input_files import one_line
from quire_services.config.loader import MAX_NUMBER
from quire_services.process import flags
from quire_services.process.kvstore_call import print_answer

from .text_table import text_table

MAX_NAME_CHARS = 40  # characters of a tenant's name that are shown


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
    change.add_argument(
        "--weight",
        type=_blocks,
        metavar="N",
        help="its share of the cache beyond, and of the engines' time (default 100)",
    )
    for command in (show, change):
        flags.add_run_dir(command)
    arguments = parser.parse_args(argv)
    run_dir = flags.read_config(parser, arguments).run_dir
    return print_answer(parser.prog, run_dir, lambda reader: _answer(reader, arguments))


def _answer(reader: KVReader, arguments: Namespace) -> str:
    rows = reader.tenants().tenants
    if arguments.command == "list":
        return json.dumps([asdict(row) for row in rows], indent=2) if arguments.json else tenants_table(rows)
    now = next((row for row in rows if row.tenant == arguments.tenant), None)
    limit, guarantee, weight = (now.limit, now.guarantee, now.weight) if now else (0, 0, 100)
    quota = reader.quota(
        tenant=arguments.tenant,
        limit=limit if arguments.limit is None else arguments.limit,
        guarantee=guarantee if arguments.guarantee is None else arguments.guarantee,
        weight=weight if arguments.weight is None else arguments.weight,
    )
    return tenants_table([quota])


def tenants_table(rows: tuple[TenantUsage, ...] | list[TenantUsage]) -> str:
    """Accounts for a person, in blocks of the pool; the quarantine and share domains have no quota."""
    titles = ("tenant", "held", "cached", "limit", "guarantee", "weight", "requests", "prompt tokens", "from cache")
    lines = [_cells(row) for row in rows]
    widths = [max(map(len, column)) + 2 for column in zip(titles, *lines, strict=True)]
    columns = {title: f"{'>' if place else '<'}{widths[place]}" for place, title in enumerate(titles)}
    return text_table(columns, lines)


def _cells(row: TenantUsage) -> tuple[str, ...]:
    tenant = one_line(row.tenant)
    name = tenant if len(tenant) <= MAX_NAME_CHARS else tenant[: MAX_NAME_CHARS - 3] + "..."
    held, cached = f"{row.held:,}", f"{row.cached:,}"
    if row.tenant.startswith("("):
        return (name, held, cached, *["-"] * 6)
    hits = f"{row.cached_tokens / row.prompt_tokens:.0%}" if row.prompt_tokens else "-"
    quota = [f"{number:,}" if number else "-" for number in (row.limit, row.guarantee)]
    return (name, held, cached, *quota, f"{row.weight:,}", f"{row.sequences:,}", f"{row.prompt_tokens:,}", hits)


def _blocks(text: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= MAX_NUMBER:
        raise ArgumentTypeError(f"{text[:40]!r} is not a whole number from 0 to {MAX_NUMBER}")
    return number
