"""``quire undrain``: an engine that was drained gets work again."""

from __future__ import annotations

import sys

from quire_services.cli.admin_call import AdminCallError, admin_answer, path_part
from quire_services.config.input_files import one_line
from quire_services.process import flags

from .drain import drain_text


def main(argv: list[str]) -> int:
    """Entry of ``quire undrain``; returns the exit code."""
    parser = flags.Parser(prog="quire undrain", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("engine", metavar="ENGINE", help="its name, as `quire engines` lists it")
    flags.add_run_dir(parser, "admin_port", "admin_token_file")
    arguments = parser.parse_args(argv)
    config = flags.read_config(parser, arguments)
    try:
        row = admin_answer(config, f"/admin/engines/{path_part(arguments.engine)}/undrain", {})
    except AdminCallError as error:
        sys.stderr.write(f"{parser.prog}: {one_line(str(error))}\n")
        return 1
    sys.stdout.write(drain_text(row) + "\n")
    return 0
