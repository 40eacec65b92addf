"""``quire prepare``: what the kvstore must know of a model, written to one JSON file.

The kvstore holds a layout and publications but imports no transformers: it starts in well under a second and a
restart must not wait for a model library. So this process, which ends when it is done, reads the model's
configuration and tokenizer once and writes

    {"model", "model_dir", "max_model_len", "layout": {...}, "published": [{"id", "domain", "tokens": [...]}]}

The file appears whole or not at all (written beside its place, then renamed).
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from . import flags
from .chat_template import LoadError, PromptEncoder, without_torch
from .published import PublishError, read_prompt, render
from .settings import Config


class PrepareError(Exception):
    """The model or a prompt cannot be used; one line says why."""


def main(argv: list[str]) -> int:
    """Entry of ``quire prepare``; returns the exit code."""
    parser = flags.Parser(prog="quire prepare", description=(__doc__ or "").partition("\n")[0])
    flags.add(parser, "serve", "kvstore", only=("model", "block_size", "dtype", "kv_cache_dtype"))
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to write")
    arguments = parser.parse_args(argv)
    config = flags.read(parser, arguments)
    without_torch()
    try:
        prepared = prepare(config)
    except (PrepareError, PublishError, LoadError) as error:
        print(f"quire prepare: {error}", file=sys.stderr)  # noqa: T201 - a person reads it
        return 2
    write(arguments.out, prepared)
    return 0


def prepare(config: Config) -> dict[str, Any]:
    """The content of the file for this configuration; raises PrepareError or PublishError."""
    directory = Path(config.serve.model).absolute()
    if not config.serve.model:
        raise PrepareError("no model: say --model DIR")
    if not (directory / "config.json").is_file():
        raise PrepareError(f"{directory} holds no config.json: not a model directory")
    layout, max_model_len = _layout(directory, config)
    return {
        "model": config.gateway.served_model_name or directory.name,
        "model_dir": str(directory),
        "max_model_len": max_model_len,
        "layout": layout,
        "published": _published(directory, config, max_model_len),
    }


def _layout(directory: Path, config: Config) -> tuple[dict[str, Any], int]:
    from quire_engine.layout import layout_of, max_model_len

    try:
        layout = layout_of(directory, config.kvstore.stored_dtype, config.kvstore.block_size)
        longest: int = max_model_len(directory)
    except (OSError, ValueError) as error:
        raise PrepareError(f"{directory}: {str(error).splitlines()[0]}") from error
    return asdict(layout), longest


def _published(directory: Path, config: Config, max_model_len: int) -> list[dict[str, Any]]:
    if not config.published:
        return []
    texts = [(prompt, read_prompt(prompt.file)) for prompt in config.published]
    encoder = PromptEncoder.load(directory)
    records = []
    for prompt, text in texts:
        tokens = render(encoder, text)
        if len(tokens) >= max_model_len:
            raise PublishError(
                f"published prompt {prompt.file}: {len(tokens)} tokens do not fit a model of {max_model_len}"
            )
        records.append({"id": prompt.id, "domain": prompt.domain, "tokens": tokens})
    return records


def write(file: Path, content: dict[str, Any]) -> None:
    """Write JSON so that a reader sees the old file or the whole new one."""
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    beside.write_text(json.dumps(content), encoding="utf-8")
    beside.chmod(0o600)
    beside.replace(file)
