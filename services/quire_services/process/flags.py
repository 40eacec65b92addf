"""Flags: the settings of some sections as command line options, and one line for every mistake.

A flag is named after its field; its text goes unparsed into ``loader``, which checks all sources alike.
``Parser`` says what is wrong in one line and exits with 2, without the usage page: ``--help`` shows that.
"""

from __future__ import annotations

import argparse
import os
from dataclasses import fields
from typing import NoReturn

from quire_services.config.input_files import one_line
from quire_services.config.loader import ConfigError, Origin, load_with_origins
from quire_services.config.settings import SECTIONS, Config

from . import reason

_METAVARS = {"int": "N", "float": "X", "bool": "true|false", "str": "TEXT"}


class Parser(argparse.ArgumentParser):
    """An argument parser that complains in one line."""

    def error(self, message: str) -> NoReturn:
        """Print the complaint and where to read more; exit 2."""
        reason.complain(self.prog, f"{one_line(message)} (see {self.prog} --help)")
        raise SystemExit(2)


def add(parser: argparse.ArgumentParser, *sections: str, only: tuple[str, ...] = ()) -> None:
    """Add ``--config`` and one flag for each field of ``sections``, or for those named in ``only``."""
    parser.add_argument("--config", default=argparse.SUPPRESS, metavar="FILE", help="TOML file (or QUIRE_CONFIG)")
    for section in sections:
        for spec in fields(SECTIONS[section]):
            if only and spec.name not in only:
                continue
            among = spec.metadata["among"]
            default = f" (default: {spec.default})" if spec.default not in ("", False) else ""
            argument = parser.add_argument(
                "--" + spec.name.replace("_", "-"),
                dest=f"{section}.{spec.name}",
                default=argparse.SUPPRESS,
                metavar="|".join(among) if among else _METAVARS[str(spec.type)],
                help=spec.metadata["help"].replace("%", "%%") + default,
            )
            if spec.type == "bool":  # the bare flag means true
                argument.nargs, argument.const = "?", "true"


def add_run_dir(parser: argparse.ArgumentParser, *more: str) -> None:
    """The flags that say which running stack is meant, its run directory or the port that names the default one, and
    ``more`` of how to reach its gateway."""
    add(parser, "serve", "gateway", only=("run_dir", "port", *more))


def as_flags(config: Config, section: str, *, but: tuple[str, ...] = ()) -> list[str]:
    """The settings of a section as flags, for a process that is to have exactly these."""
    return [
        f"--{spec.name.replace('_', '-')}={getattr(getattr(config, section), spec.name)}"
        for spec in fields(SECTIONS[section])
        if spec.name not in but
    ]


def read_config(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Config:
    """The configuration of parsed arguments, the environment and the file; a mistake ends the process with 2."""
    return read_config_with_origins(parser, arguments)[0]


def read_config_with_origins(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace
) -> tuple[Config, dict[str, Origin]]:
    """The same, and where each setting comes from that is no default."""
    given = {key: value for key, value in vars(arguments).items() if key == "config" or "." in key}
    try:
        return load_with_origins(given, os.environ)
    except ConfigError as error:
        parser.error(str(error))
