"""``quire prefix``: system prompts that a running stack shares on purpose. ``publish``, ``unpublish``, ``list``,
``explain``.

What is published is a system message from a file, or what a chat's own request begins with: system messages and
tools. It is rendered with the model's own chat template, here and not in the kvstore, to the tokens that every such
chat begins with; from then on each entitled request that begins with them shares them, with no change to the request.
Publishing is a declaration: it returns at once and survives a restart of the kvstore, and the first engine with time
computes the prompt. The same again changes nothing, another one under the same id is a variant beside it.
"""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, Namespace
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quire_kv import KVReader
from quire_proto.private_dir import NotPrivate, insist_on_private
from quire_proto.wire.publication_ids import variant_of
from quire_proto.wire.u32 import pack_u32
from quire_services.config.input_files import one_line
from quire_services.config.loader import IDENTIFIER
from quire_services.config.prepared_file import PREPARED_FILE, read_prepared
from quire_services.config.settings import Config
from quire_services.gateway.published_prompts.explanation import domains_of, explain
from quire_services.gateway.published_prompts.preamble import Preamble, preamble_of
from quire_services.gateway.published_prompts.prompt_files import PublishError, read_request, read_system, read_tools
from quire_services.gateway.published_prompts.prompt_row import prompt_row
from quire_services.gateway.published_prompts.rendered_prompt import RenderedPrompt, render_prompt
from quire_services.gateway.published_prompts.variants import publish_variant, unpublish_variants
from quire_services.gateway.templates.chat_template import LoadError, PromptEncoder, without_torch
from quire_services.process import flags
from quire_services.process.kvstore_call import print_answer

from .admin_call import AdminCallError, admin_answer
from .explanation_text import explanation_text
from .text_table import prompts_table


def main(argv: list[str]) -> int:
    """Entry of ``quire prefix``; returns the exit code."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    config = flags.read_config(parser, arguments)
    run_dir = config.run_dir
    if arguments.command == "list":
        return print_answer(parser.prog, run_dir, lambda reader: _list(reader, arguments.json))
    if arguments.command == "unpublish":
        return print_answer(parser.prog, run_dir, lambda reader: _unpublish(reader, arguments))
    if arguments.command == "explain":
        return _explain(parser, arguments, run_dir)
    if arguments.tools and not arguments.file:
        parser.error("argument --tools: a request has tools of its own; --any-tools leaves them out")
    if arguments.request_id is not None:
        return _publish_remembered(parser, arguments, config)
    if arguments.any_tools and arguments.file:
        parser.error("argument --any-tools: leave --tools out instead")
    identity = arguments.id or _named_file(arguments).stem
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
    publish = commands.add_parser("publish", help="share a system message, with tools or without")
    source = publish.add_mutually_exclusive_group(required=True)
    source.add_argument("--file", type=Path, metavar="TXT", help="the system message")
    source.add_argument(
        "--from-request",
        type=Path,
        metavar="JSON",
        help="the body of a chat request: its system messages and its tools, as its framework writes them",
    )
    source.add_argument(
        "--request-id",
        metavar="ID",
        help="the same of a request that the gateway remembers (--remembered-requests), over its admin API",
    )
    publish.add_argument("--tenant", metavar="TENANT", help="whose request --request-id is")
    publish.add_argument("--tools", type=Path, metavar="JSON", help="tools that every chat with it sends, as a list")
    publish.add_argument(
        "--any-tools",
        action="store_true",
        help="leave the request's tools out: up to where the template writes tools, for chats with any",
    )
    publish.add_argument("--domain", required=True, metavar="public|GROUP", help="where it may be shared")
    publish.add_argument("--id", metavar="NAME", help="what to call it (default: the file's name without its ending)")
    publish.add_argument("--replace", action="store_true", help="in place of all variants that the id has")
    unpublish = commands.add_parser("unpublish", help="no new request shares it; those that do go on")
    unpublish.add_argument("id", metavar="NAME")
    unpublish.add_argument("--variant", default="", metavar="HASH", help="this one alone, as `list` calls it")
    show = commands.add_parser("list", help="what is published, and whether it is computed")
    why = commands.add_parser(
        "explain", help="how far a request matches what is published, and what would make it match"
    )
    why.add_argument("request", type=Path, metavar="JSON", help="the body of a chat request")
    why.add_argument(
        "--tenant", default="", metavar="TENANT", help="whose it is (default: of one that is in all groups)"
    )
    _common(publish, "admin_port", "admin_token_file")
    for command in (unpublish, show, why):
        _common(command)
    return parser


def _common(command: ArgumentParser, *settings: str) -> None:
    command.add_argument("--json", action="store_true", help="the answer as JSON")
    flags.add_run_dir(command, *settings)


def _rendered(arguments: Namespace, run_dir: Path) -> RenderedPrompt:
    """The prompt as tokens of the model that the stack in ``run_dir`` serves. Raises PublishError or LoadError."""
    preamble = _source(arguments)
    encoder, served = _encoder(run_dir)
    try:
        return render_prompt(encoder, preamble(encoder), served.longest)
    except PublishError as error:
        raise PublishError(f"published prompt {_named_file(arguments)}: {error}") from None


def _encoder(run_dir: Path) -> tuple[PromptEncoder, ServedModel]:
    """The encoder of the model that the stack in ``run_dir`` serves. Raises PublishError, LoadError or NotPrivate."""
    with suppress(OSError):  # none: what is missing in it is said next
        insist_on_private(run_dir)
    served = served_model(run_dir / PREPARED_FILE)
    without_torch()
    return PromptEncoder.load(served.directory, canonical=served.canonical_tools), served


def _explain(parser: flags.Parser, arguments: Namespace, run_dir: Path) -> int:
    try:
        request = read_request(arguments.request)
        encoder, _ = _encoder(run_dir)
        explain(encoder, request, (), None)  # what is wrong with it is said before the kvstore is asked
    except (PublishError, LoadError, NotPrivate) as error:
        parser.error(f"{arguments.request}: {error}")

    def answer(reader: KVReader) -> str:
        domains = domains_of(arguments.tenant, reader.groups()) if arguments.tenant else None
        found = explain(encoder, request, reader.fetch_publications().publications, domains)
        return json.dumps(found.as_json(), indent=2) if arguments.json else explanation_text(found)

    return print_answer(parser.prog, run_dir, answer)


def _source(arguments: Namespace) -> Callable[[PromptEncoder], Preamble]:
    """What is published, once the model is known. Raises PublishError for files that cannot be read."""
    if arguments.from_request is None:
        tools = read_tools(arguments.tools) if arguments.tools else None
        preamble = Preamble.of_system(read_system(arguments.file), tools)
        return lambda _: preamble
    request = read_request(arguments.from_request)
    return lambda encoder: preamble_of(request, encoder, any_tools=arguments.any_tools)


def _named_file(arguments: Namespace) -> Path:
    file: Path = arguments.from_request or arguments.file
    return file


@dataclass(frozen=True, slots=True)
class ServedModel:
    """The model of a stack: its directory, its longest sequence in tokens, and how templates see tools."""

    directory: Path
    longest: int
    canonical_tools: bool


def served_model(file: Path) -> ServedModel:
    """The model that a prepared file speaks of. Raises PublishError."""
    try:
        content = read_prepared(file)
        directory = Path(str(content["model_dir"]))
        return ServedModel(directory, int(content["max_model_len"]), content.get("canonical_tools") is True)
    except FileNotFoundError:
        raise PublishError(f"no stack runs in {file.parent}: there is no {file.name}") from None
    except (OSError, ValueError, OverflowError, KeyError, TypeError) as error:
        raise PublishError(f"{file}: not a prepared file: {error}") from None


def _publish(reader: KVReader, arguments: Namespace, identity: str, rendered: RenderedPrompt) -> str:
    reply = publish_variant(reader, identity, arguments.domain, rendered.tokens, replace=arguments.replace)
    fields = {"id": identity, "variant": variant_of(pack_u32(rendered.tokens)), "domain": arguments.domain}
    about = {"state": reply.state, "tokens": reply.tokens, "generation": reply.generation}
    return _published_text(fields | about | {"notes": rendered.notes}, arguments.json)


def _publish_remembered(parser: flags.Parser, arguments: Namespace, config: Config) -> int:
    """Publish what the gateway remembers of a tenant's request; the exit code."""
    if not arguments.id or not arguments.tenant:
        parser.error("argument --request-id: say whose it is with --tenant, and what to call it with --id")
    names = ("id", "domain", "request_id", "tenant", "any_tools", "replace")
    try:
        said = admin_answer(config, "/admin/publications", {name: getattr(arguments, name) for name in names})
    except AdminCallError as error:
        sys.stderr.write(f"{parser.prog}: {one_line(str(error))}\n")
        return 1
    sys.stdout.write(_published_text({key: said[key] for key in said if key != "object"}, arguments.json) + "\n")
    return 0


def _published_text(said: dict[str, Any], as_json: bool) -> str:
    if as_json:
        return json.dumps(said)
    notes = [f"note: {note}" for note in said["notes"]]
    return "\n".join([f"{said['id']}: {said['tokens']} tokens published to {said['domain']} ({said['state']})", *notes])


def _unpublish(reader: KVReader, arguments: Namespace) -> str:
    many = unpublish_variants(reader, arguments.id, arguments.variant)
    return f"{arguments.id}: unpublished" + (f", {many} variants" if many > 1 else "")


def _list(reader: KVReader, as_json: bool) -> str:
    published = reader.fetch_publications().publications
    return json.dumps([prompt_row(p) for p in published], indent=2) if as_json else prompts_table(published)
