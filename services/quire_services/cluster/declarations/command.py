"""``quire declare``: what is true on every node of a cluster. ``apply``, ``list``, ``nodes``, ``revoke``.

``first-look`` and ``follow`` are what ``quire serve --declarations`` runs on a node.

``apply FILE`` writes the difference between a file and the store, all of it or nothing. ``revoke`` ends a key. Each
names the store: ``--store valkey://HOST:6379/0``.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from argparse import Namespace
from collections.abc import Callable
from pathlib import Path

import structlog

from quire_services.config.input_files import one_line
from quire_services.config.key_digests import DIGEST_PREFIX, stored_digest
from quire_services.process import flags, logs, reason

from .follower import STORE_POLL_S, Follower
from .node_admin import NodeAdmin
from .node_files import NodeFiles, first_look
from .node_table import nodes_text
from .operator_file import FileError, beyond, changes_to, read_operator_file, tombstone
from .records import KEY, DeclarationStore, Record, StoreAway, StoreError, WriteConflict
from .stores.address import open_store

log = structlog.get_logger()
_SHOWN_DIGITS = 12  # of a digest: enough to tell keys apart


def main(argv: list[str]) -> int:
    """Entry of ``quire declare``; returns the exit code."""
    parser = flags.Parser(prog="quire declare", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    apply = commands.add_parser("apply", help="make the store say what a file says")
    apply.add_argument("file", type=Path, metavar="FILE")
    apply.add_argument("--prune", action="store_true", help="delete what is declared and not in the file")
    show = commands.add_parser("list", help="what is declared; keys by the beginning of their digests")
    show.add_argument("--json", action="store_true", help="as one JSON array, deleted records too")
    revoke = commands.add_parser("revoke", help="end a key, on every node")
    revoke.add_argument("key", metavar="KEY", help="sha256: and the first digits of its digest; - reads the key itself")
    nodes = commands.add_parser("nodes", help="which nodes follow the store, how far each is, and its shares")
    nodes.add_argument("--json", action="store_true", help="as one JSON array")
    look = commands.add_parser("first-look", help="write what a node must know before its gateway starts")
    follow = commands.add_parser("follow", help="keep a node as the store says, until stopped")
    follow.add_argument("--node", required=True, metavar="NAME", help="this node's name, alone in its cluster")
    follow.add_argument("--admin-url", required=True, metavar="URL", help="of the node's admin port")
    follow.add_argument("--admin-token-file", required=True, type=Path, metavar="FILE")
    for command in (look, follow):
        command.add_argument("--state", required=True, type=Path, metavar="DIR", help="what is kept for the next start")
    for command in (apply, show, revoke, nodes, look, follow):
        command.add_argument(
            "--store",
            required=True,
            metavar="ADDRESS",
            help="valkey://HOST:PORT/DB or file:///DIRECTORY, perhaps with ?cluster=NAME; or @FILE with the address",
        )
    arguments = parser.parse_args(argv)
    run: dict[str, Callable[[DeclarationStore, Namespace], int]] = {
        "apply": _apply,
        "list": _list,
        "nodes": _nodes,
        "revoke": _revoke,
        "first-look": _first_look,
        "follow": _follow,
    }
    try:
        return run[arguments.command](open_store(arguments.store), arguments)
    except (StoreError, FileError, WriteConflict) as error:
        reason.complain(parser.prog, one_line(str(error)))
    except ModuleNotFoundError as error:
        reason.complain(parser.prog, f"{error}; install it with: pip install 'quire-kv[cluster]'")
    return 1


def _apply(store: DeclarationStore, arguments: Namespace) -> int:
    values, records = read_operator_file(arguments.file), store.read()
    changes = changes_to(values, records, prune=arguments.prune)
    version = store.write(changes) if changes else store.revision()
    kept = [] if arguments.prune else beyond(values, records)
    deleted = sum(change.value is None for change in changes)
    _say(f"{len(changes) - deleted} written, {deleted} deleted, version {version}")
    if kept:
        _say(f"{len(kept)} declared before and not in {arguments.file} stay; --prune deletes them: {_names(kept)}")
    return 0


def _list(store: DeclarationStore, arguments: Namespace) -> int:
    records = sorted(store.read().values(), key=lambda record: record.key)
    if arguments.json:
        rows = [{"kind": r.kind, "name": r.name, "version": r.version, "value": r.value} for r in records]
        _say(json.dumps(rows, indent=2))
        return 0
    for record in records:
        if record.value is not None:
            about = {key: value for key, value in record.value.items() if key not in ("system", "tools")}
            _say(f"{record.kind:<12}{_name(record):<30}{json.dumps(about)}")
    return 0


def _nodes(store: DeclarationStore, arguments: Namespace) -> int:
    _say(nodes_text(store, as_json=arguments.json))
    return 0


def _revoke(store: DeclarationStore, arguments: Namespace) -> int:
    if arguments.key == "-":
        wanted = stored_digest(sys.stdin.readline().strip()).hex()
    elif arguments.key.startswith(DIGEST_PREFIX) and len(arguments.key) >= len(DIGEST_PREFIX) + _SHOWN_DIGITS:
        wanted = arguments.key.removeprefix(DIGEST_PREFIX)
    else:  # a key in clear would be in the shell's history and the process table
        raise FileError(f"name a key by {DIGEST_PREFIX} and {_SHOWN_DIGITS} or more digits, or give it on stdin with -")
    live = [record for record in store.read().values() if record.kind == KEY and record.value is not None]
    found = [record for record in live if record.name.startswith(wanted)]
    if len(found) != 1:
        raise FileError(f"{len(found) or 'no'} keys are declared that have this digest")
    version = store.write([tombstone(found[0])])
    _say(f"revoked {_name(found[0])} of {(found[0].value or {})['tenant']}, version {version}")
    return 0


def _first_look(store: DeclarationStore, arguments: Namespace) -> int:
    logs.configure("follower")
    files, said = NodeFiles(arguments.state), ""
    while True:
        try:
            version = first_look(store, files)
        except StoreAway as error:
            if said != str(error):
                said = str(error)
                log.warning("declarations_wait", part="store", reason=said)
            time.sleep(STORE_POLL_S)
            continue
        log.info("declarations_known", version=version)
        return 0


def _follow(store: DeclarationStore, arguments: Namespace) -> int:
    logs.configure("follower")
    node = NodeAdmin(arguments.admin_url, arguments.admin_token_file)
    follower = Follower(arguments.node, store, node, NodeFiles(arguments.state))
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: os._exit(1) if stop.is_set() else stop.set())
    follower.start()
    while not stop.wait(STORE_POLL_S) and not follower.failed:
        pass
    follower.stop()
    return int(follower.failed)


def _name(record: Record) -> str:
    return DIGEST_PREFIX + record.name[:_SHOWN_DIGITS] if record.kind == KEY else record.name


def _names(records: list[Record]) -> str:
    return ", ".join(f"{record.kind} {_name(record)}" for record in records[:8]) + (" ..." if len(records) > 8 else "")


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
