"""``quire engines``: the engines of a running stack, as its gateway sees them."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from quire_services.cli.admin_call import AdminCallError, admin_answer
from quire_services.cli.text_table import text_table
from quire_services.config.input_files import one_line
from quire_services.process import flags

COLUMNS = {
    "engine": "<20", "state": "<22", "role": "<9", "session": "<10", "sequences": ">9", "running": ">9",
    "waiting": ">9", "tokens/s": ">10", "recomputed": ">12", "since": ">10",
}  # fmt: skip


def main(argv: list[str]) -> int:
    """Entry of ``quire engines``; returns the exit code."""
    parser = flags.Parser(prog="quire engines", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--json", action="store_true", help="as one JSON array, with all counters")
    flags.add_run_dir(parser, "admin_port", "admin_token_file")
    arguments = parser.parse_args(argv)
    try:
        rows = admin_answer(flags.read_config(parser, arguments), "/admin/engines")["data"]
    except AdminCallError as error:
        sys.stderr.write(f"{parser.prog}: {one_line(str(error))}\n")
        return 1
    sys.stdout.write((json.dumps(rows, indent=2) if arguments.json else engines_table(rows)) + "\n")
    return 0


def engines_table(rows: list[dict[str, Any]]) -> str:
    """Engines for a person."""
    return text_table(COLUMNS, [_cells(row) for row in rows])


def _cells(row: dict[str, Any]) -> tuple[object, ...]:
    again = sum(count for name, count in row["counters"].items() if name.startswith("recomputed_"))
    since = time.strftime("%H:%M:%S", time.localtime(row["since"]))
    name = one_line(row["name"])
    return (
        name if len(name) < 20 else name[:16] + "...", row["state"], row["role"], row["session"][:8] or "-",
        row["sequences"], row["running"], row["waiting"], row["tokens_per_s"], again, since,
    )  # fmt: skip
