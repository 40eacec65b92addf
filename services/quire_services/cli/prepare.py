"""``quire prepare``: what the kvstore must know of a model, written to one JSON file.

The kvstore holds a layout and published prompts but imports no transformers: it starts in well under a second and a
restart must not wait for a model library. So this process, which ends when it is done, reads the model's
configuration and tokenizer once and writes ``prepared_file``, which appears whole or not at all.
"""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from quire_engine.checkpoint.model_name import model_name
from quire_services.config.prepared_file import write_prepared
from quire_services.config.settings import Config, PublishedPrompt
from quire_services.gateway.published_prompts.preamble import Preamble
from quire_services.gateway.published_prompts.prompt_files import PublishError, read_system, read_tools
from quire_services.gateway.published_prompts.rendered_prompt import render_prompt
from quire_services.gateway.templates.chat_template import LoadError, PromptEncoder, without_torch
from quire_services.process import flags, reason
from quire_services.process.model.refusal_line import refusal_line
from quire_services.process.model.served_model import dtype_note, settled, with_directory


class PrepareError(Exception):
    """The model or a prompt cannot be used; one line says why."""


PREPARE_SETTINGS = (
    "model", "revision", "block_size", "dtype", "kv_cache_dtype", "attention", "max_model_len", "tools_in_prompt",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Entry of ``quire prepare``; returns the exit code."""
    parser = flags.Parser(prog="quire prepare", description=(__doc__ or "").partition("\n")[0])
    flags.add(parser, "serve", "kvstore", "engine", "gateway", only=PREPARE_SETTINGS)
    parser.add_argument("--out", required=True, type=Path, metavar="FILE", help="where to write")
    arguments = parser.parse_args(argv)
    config = flags.read_config(parser, arguments)
    without_torch()
    try:
        prepared = prepare(config)
    except (PrepareError, PublishError, LoadError) as error:
        reason.complain("quire prepare", str(error))
        return 2
    if note := dtype_note(Path(prepared["model_dir"]), config):
        print(f"quire prepare: {note}", file=sys.stderr)  # noqa: T201 - a person reads it
    try:
        write_prepared(arguments.out, prepared)
    except (OSError, ValueError) as error:
        parser.error(f"argument --out: {str(arguments.out)!r}: {getattr(error, 'strerror', None) or error}")
    return 0


def prepare(config: Config) -> dict[str, Any]:
    """The content of the file for this configuration; raises PrepareError or PublishError."""
    if not config.serve.model:
        raise PrepareError("no model: name one with --model DIR")
    try:
        config = with_directory(config)
    except (OSError, ValueError) as error:
        raise PrepareError(refusal_line(config.serve.model, error)) from error
    directory = Path(config.serve.model)
    layout, max_model_len = _layout(directory, config)
    return {
        "model": config.gateway.served_model_name or model_name(directory),
        "model_dir": str(directory),
        "max_model_len": max_model_len,
        "canonical_tools": config.gateway.canonical_tools,
        "layout": layout,
        "device_need": _device_need(directory, config),
        "published": _published(directory, config, max_model_len),
    }


def _layout(directory: Path, config: Config) -> tuple[dict[str, Any], int]:
    from transformers.utils import logging

    from quire_engine.checkpoint.layout import layout_of, max_model_len
    from quire_services.gateway.text.tokenizer_check import check_tokenizer

    logging.set_verbosity(logging.CRITICAL)  # what it would advise, a refusal says in a line
    try:
        dtype = settled(config).kvstore.stored_dtype
        layout = layout_of(directory, dtype, config.kvstore.block_size)
        longest: int = max_model_len(directory, config.engine.max_model_len)
        check_tokenizer(directory)
    except Exception as error:  # of any kind: transformers checks few of the values that it computes with
        raise PrepareError(refusal_line(directory, error)) from error
    return asdict(layout), longest


def _device_need(directory: Path, config: Config) -> dict[str, int]:
    from quire_engine.checkpoint.device_need import device_need

    try:
        return asdict(device_need(directory, settled(config).kvstore.dtype))
    except Exception:  # of any kind: where it cannot be reckoned the pool's size can still be said
        return {}


def _published(directory: Path, config: Config, max_model_len: int) -> list[dict[str, Any]]:
    if not config.published:
        return []
    files = [(p, read_system(p.file), read_tools(p.tools) if p.tools else None) for p in config.published]
    encoder = PromptEncoder.load(directory, canonical=config.gateway.canonical_tools)
    return [_prepared_prompt(encoder, *each, max_model_len) for each in files]


def _prepared_prompt(
    encoder: PromptEncoder, prompt: PublishedPrompt, system: str, tools: list[Any] | None, max_model_len: int
) -> dict[str, Any]:
    try:
        rendered = render_prompt(encoder, Preamble.of_system(system, tools), max_model_len)
    except PublishError as error:
        raise PublishError(f"published prompt {prompt.file}: {error}") from None
    for note in rendered.notes:
        print(f"quire prepare: published prompt {prompt.file}: {note}", file=sys.stderr)  # noqa: T201 - for a person
    return {"id": prompt.id, "domain": prompt.domain, "tokens": rendered.tokens}
