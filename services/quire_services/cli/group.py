"""``quire group``: which tenants may share what is published to a group. ``join``, ``leave``, ``list``.

For a stack that runs; members may also be declared in the configuration (``groups`` in ``[[tenants]]``), and those
leave there. A tenant that leaves shares nothing of the group from that moment on. A group exists as long as it has
members.
"""

from __future__ import annotations

import json
from dataclasses import asdict

from quire_kv import Groups
from quire_services.process import flags
from quire_services.process.kvstore_call import print_answer

from .text_table import text_table


def main(argv: list[str]) -> int:
    """Entry of ``quire group``; returns the exit code."""
    parser = flags.Parser(prog="quire group", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    join = commands.add_parser("join", help="make a tenant a member")
    leave = commands.add_parser("leave", help="end a membership")
    for command in (join, leave):
        command.add_argument("group", metavar="GROUP")
        command.add_argument("tenant", metavar="TENANT")
    for command in (join, leave, commands.add_parser("list", help="all groups with their members")):
        command.add_argument("--json", action="store_true", help="as one JSON array")
        flags.add_run_dir(command)
    arguments = parser.parse_args(argv)
    run_dir = flags.read_config(parser, arguments).run_dir
    show = _as_json if arguments.json else _as_table
    if arguments.command == "list":
        return print_answer(parser.prog, run_dir, lambda reader: show(reader.groups()))
    group, tenant = arguments.group, arguments.tenant
    if arguments.command == "join":
        return print_answer(parser.prog, run_dir, lambda reader: show(reader.join(tenant, group)))
    return print_answer(parser.prog, run_dir, lambda reader: show(reader.leave(tenant, group)))


def _as_json(groups: Groups) -> str:
    """Every membership as an object."""
    return json.dumps([asdict(member) for member in groups.members], indent=2)


def _as_table(groups: Groups) -> str:
    """Memberships for a person."""
    columns = {"group": "<28", "tenant": "<28", "generation": ">10"}
    return text_table(columns, [(member.group, member.tenant, member.generation) for member in groups.members])
