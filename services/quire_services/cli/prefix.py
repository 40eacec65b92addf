"""``quire prefix``: system prompts that a running stack shares on purpose. ``publish``, ``unpublish``, ``list``.

The file is a system message. It is rendered with the model's own chat template, here and not in the kvstore, to the
tokens that every chat with it begins with; from then on each entitled request that begins with them shares them, with
no change to the request. Publishing is a declaration: it returns at once and survives a restart of the kvstore, and
the first engine with time computes the prompt. The same again changes nothing.
"""

from __future__ import annotations

import json
from argparse import ArgumentParser, Namespace
from contextlib import suppress
from pathlib import Path

from quire_kv import KVReader
from quire_proto.private_dir import NotPrivate, insist_on_private
from quire_proto.wire.u32 import pack_u32
from quire_services.config.loader import IDENTIFIER
from quire_services.config.prepared_file import PREPARED_FILE, read_prepared
from quire_services.gateway.published_prompts.prompt_files import PublishError, read_system, read_tools
from quire_services.gateway.published_prompts.prompt_row import prompt_row
from quire_services.gateway.published_prompts.rendered_prompt import RenderedPrompt, render_prompt
from quire_services.gateway.templates.chat_template import LoadError, PromptEncoder, without_torch
from quire_services.process import flags
from quire_services.process.kvstore_call import print_answer

from .text_table import prompts_table


def main(argv: list[str]) -> int:
    """Entry of ``quire prefix``; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    run_dir = flags.read_config(parser, arguments).run_dir
    if arguments.command == "list":
        return print_answer(parser.prog, run_dir, lambda reader: _list(reader, arguments.json))
    if arguments.command == "unpublish":
        return print_answer(parser.prog, run_dir, lambda reader: _unpublish(reader, arguments.id))
    identity = arguments.id or arguments.file.stem
    if not IDENTIFIER.fullmatch(identity):
        parser.error(f"{identity!r} cannot be an id, which has 1 to 64 letters, digits or ._-: choose one with --id")
    try:
        rendered = _rendered(arguments, run_dir)
    except (PublishError, LoadError, NotPrivate) as error:
        parser.error(str(error))
    return print_answer(parser.prog, run_dir, lambda reader: _publish(reader, arguments, identity, rendered))


def _parser() -> flags.Parser:
    parser = flags.Parser(prog="quire prefix", description=(__doc__ or "").partition("\n")[0])
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    publish = commands.add_parser("publish", help="share a system message")
    publish.add_argument("--file", type=Path, required=True, metavar="TXT", help="the system message")
    publish.add_argument("--tools", type=Path, metavar="JSON", help="tools that every chat with it sends, as a list")
    publish.add_argument("--domain", required=True, metavar="public|GROUP", help="where it may be shared")
    publish.add_argument("--id", metavar="NAME", help="what to call it (default: the file's name without its ending)")
    unpublish = commands.add_parser("unpublish", help="no new request shares it; those that do go on")
    unpublish.add_argument("id", metavar="NAME")
    show = commands.add_parser("list", help="what is published, and whether it is computed")
    for command in (publish, unpublish, show):
        _common(command)
    return parser


def _common(command: ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="the answer as JSON")
    flags.add_run_dir(command)


def _rendered(arguments: Namespace, run_dir: Path) -> RenderedPrompt:
    """The prompt as tokens of the model that the stack in ``run_dir`` serves. Raises PublishError or LoadError."""
    system = read_system(arguments.file)
    tools = read_tools(arguments.tools) if arguments.tools else None
    with suppress(OSError):  # none: what is missing in it is said next
        insist_on_private(run_dir)
    model, longest = served_model(run_dir / PREPARED_FILE)
    without_torch()
    try:
        return render_prompt(PromptEncoder.load(model), system, tools, longest)
    except PublishError as error:
        raise PublishError(f"published prompt {arguments.file}: {error}") from None


def served_model(file: Path) -> tuple[Path, int]:
    """The model's directory and its longest sequence, in tokens, as a prepared file says. Raises PublishError."""
    try:
        content = read_prepared(file)
        return Path(str(content["model_dir"])), int(content["max_model_len"])
    except FileNotFoundError:
        raise PublishError(f"no stack runs in {file.parent}: there is no {file.name}") from None
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise PublishError(f"{file}: not a prepared file: {error}") from None


def _publish(reader: KVReader, arguments: Namespace, identity: str, rendered: RenderedPrompt) -> str:
    reply = reader.publish(identity, arguments.domain, pack_u32(rendered.tokens))
    if arguments.json:
        fields = {"id": identity, "domain": arguments.domain, "state": reply.state, "tokens": reply.tokens}
        return json.dumps(fields | {"generation": reply.generation, "notes": rendered.notes})
    notes = [f"note: {note}" for note in rendered.notes]
    return "\n".join([f"{identity}: {reply.tokens} tokens published to {arguments.domain} ({reply.state})", *notes])


def _unpublish(reader: KVReader, identity: str) -> str:
    reader.unpublish(identity)
    return f"{identity}: unpublished"


def _list(reader: KVReader, as_json: bool) -> str:
    published = reader.fetch_publications().publications
    return json.dumps([prompt_row(p) for p in published], indent=2) if as_json else prompts_table(published)
