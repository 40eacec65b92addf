"""``quire drain``: an engine gets nothing new, and the others go on with what it has; no token is computed again."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

from quire_services.cli.admin_call import AdminCallError, admin_answer, path_part
from quire_services.config.input_files import one_line
from quire_services.config.settings import Config
from quire_services.process import flags

DRAIN_POLL_S = 0.2


def main(argv: list[str]) -> int:
    """Entry of ``quire drain``; returns the exit code."""
    parser = flags.Parser(prog="quire drain", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine", metavar="ENGINE", help="its name, as `quire engines` lists it")
    parser.add_argument("--force", action="store_true", help="also if no other engine can take its requests")
    parser.add_argument("--wait", action="store_true", help="return when nothing is left there")
    parser.add_argument("--timeout", type=float, default=60.0, metavar="S", help="seconds that --wait waits (60)")
    parser.add_argument("--json", action="store_true", help="the answer as JSON")
    flags.add_run_dir(parser, "admin_port", "admin_token_file")
    arguments = parser.parse_args(argv)
    config = flags.read_config(parser, arguments)
    try:
        row = admin_answer(config, f"/admin/engines/{path_part(arguments.engine)}/drain", {"force": arguments.force})
        if arguments.wait:
            row = _drained(config, row, arguments.timeout)
    except AdminCallError as error:
        sys.stderr.write(f"{parser.prog}: {one_line(str(error))}\n")
        return 1
    sys.stdout.write((json.dumps(row) if arguments.json else drain_text(row)) + "\n")
    return 0


def drain_text(row: dict[str, Any]) -> str:
    """An engine's state for a person."""
    left = f", {row['sequences']} sequences are left" if row["sequences"] else ""
    return f"{one_line(row['name'])}: {row['state']}{left}"


def _drained(config: Config, row: dict[str, Any], seconds: float) -> dict[str, Any]:
    """The engine when nothing is left there, or its process has ended. Raises AdminCallError when the time is over."""
    until = time.monotonic() + seconds
    while row["state"] != "drained":
        if time.monotonic() > until:
            raise AdminCallError(f"{drain_text(row)} after {seconds:g} seconds")
        time.sleep(DRAIN_POLL_S)
        rows = admin_answer(config, "/admin/engines")["data"]
        now = next((other for other in rows if (other["name"], other["pid"]) == (row["name"], row["pid"])), None)
        if now is None:
            return {**row, "state": "gone", "sequences": 0}
        if now["state"] == "ready":
            raise AdminCallError(f"{row['name']} gets work again")
        row = now
    return row
