"""``quire doctor``: find what is wrong, and say what to do.

Exit codes: 0 nothing is wrong (infos are allowed), 1 there are warnings, 2 there are errors, or a usage error.
"""

from __future__ import annotations

import os
import shutil
import sys

from quire_services.config.loader import ConfigError
from quire_services.config.settings import POOL_SIZES
from quire_services.process import flags

from .examination import examine
from .findings import Severity, worst
from .report import json_report, text_report
from .scene import Scene

EXAMINATION_S = 20.0
SETTINGS = {
    "serve": ("model", "engines", "run_dir"),
    "kvstore": (*POOL_SIZES, "dtype", "arena", "state_dir", "reserve"),
    "engine": ("attention", "threads"),
    "gateway": ("host", "port", "admin_port", "admin_token_file"),
}


def main(argv: list[str]) -> int:
    """Entry of ``quire doctor``; returns the exit code."""
    parser = flags.Parser(prog="quire doctor", description="find what is wrong on this host, and say what to do")
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    parser.add_argument(
        "--timeout-s",
        type=float,
        default=EXAMINATION_S,
        metavar="X",
        help=f"for all checks (default: {EXAMINATION_S:g})",
    )
    flags.add(parser, *SETTINGS, only=tuple(name for names in SETTINGS.values() for name in names))
    arguments = parser.parse_args(argv)
    given = {key: value for key, value in vars(arguments).items() if key == "config" or "." in key}
    try:
        scene = Scene.of(given, os.environ)
    except ConfigError as error:
        parser.error(str(error))
    found = examine(scene, arguments.timeout_s)
    if arguments.json:
        text = json_report(found, scene.run_dir)
    else:
        terminal = sys.stdout.isatty()
        columns = shutil.get_terminal_size().columns if terminal else 0
        text = text_report(found, scene.run_dir, columns, colours=terminal and "NO_COLOR" not in os.environ)
    sys.stdout.write(text + "\n")
    return max(0, worst(found) - Severity.INFO)
