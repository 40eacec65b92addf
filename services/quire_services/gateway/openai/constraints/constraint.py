"""Constraint: the one grammar that a request's answers are held to, all of each, reasoning and calls included.

It is made where bodies are read, in a process of its own: looking at schemas takes milliseconds each. Where a model may
call tools and nothing says that it must, or how, the grammar is a help and no promise: what stands in its way leaves
it out. Whatever was asked for in so many words is held to, or refused.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from quire_proto.gateway_link import MAX_GRAMMAR
from quire_services.gateway.http.errors import ApiError, invalid
from quire_services.gateway.openai.bodies import Body, ChatBody, CompletionBody
from quire_services.gateway.openai.chat import may_reason
from quire_services.gateway.openai.chat_tools import choice_of
from quire_services.gateway.templates.chat_template import PromptEncoder
from quire_services.gateway.tools.grammar.content_format import ContentFormatInvalid
from quire_services.gateway.tools.grammar.schema_check import SchemaInvalid
from quire_services.gateway.tools.model_answers import NoGrammar

from .content_fields import content_asked_for

_FOREIGN = ("allowed_token_ids", "use_beam_search")  # they say themselves which tokens may come, and which do


@dataclass(frozen=True, slots=True)
class Constraint:
    """A grammar.

    Attributes:
        text: for the engine.
        param: the parameter that it comes from, and which is wrong if the engine does not take it.
        binds: it was asked for; else it is a help.
        likely: another, of what the model most likely writes of all that; empty if there is none.
    """

    text: str
    param: str
    binds: bool
    likely: str = ""


def chat_constraint(body: ChatBody, encoder: PromptEncoder, prompt: Sequence[int]) -> Constraint | None:
    """That of a chat with this prompt; None if an answer may be anything. Raises ApiError 400."""
    choice = choice_of(body)
    try:
        content = content_asked_for(body)
        parallel = body.parallel_tool_calls is not False
        made = encoder.answers.grammar(
            choice, encoder.end_of(prompt), content, parallel=parallel, reasoning=may_reason(body)
        )
    except SchemaInvalid as error:
        raise invalid(f"tools: {error}", "tools") from None
    except NoGrammar as error:
        asked = content.param if content else "tools" if choice.mode == "auto" else "tool_choice"
        raise invalid(f"{asked}: {error}", asked, "unsupported_parameter") from None
    except (ContentFormatInvalid, RecursionError) as error:
        raise _refused(error) from None
    if made is None:
        return None
    binds = bool(content) or choice.binds
    return _checked(Constraint(made.text, content.param if content else "tools", binds, made.likely), body)


def completion_constraint(body: CompletionBody) -> Constraint | None:
    """That of plain completions; None if they may be any text. Raises ApiError 400."""
    try:
        content = content_asked_for(body)
        return _checked(Constraint(content.grammar(), content.param, binds=True), body) if content else None
    except (ContentFormatInvalid, RecursionError) as error:
        raise _refused(error) from None


def _checked(made: Constraint, body: Body) -> Constraint | None:
    """The constraint; None where it is a help that cannot be had. Raises ApiError 400."""
    problem = None
    if len(made.text) > MAX_GRAMMAR:
        problem = invalid(f"{made.param}: a grammar of more than {MAX_GRAMMAR} characters comes of it", made.param)
    elif not _is_unicode(made.text):
        problem = invalid(f"{made.param}: the text is not valid Unicode: it has half of a surrogate pair", made.param)
    elif foreign := next((name for name in _FOREIGN if getattr(body, name)), None):
        problem = invalid(f"{foreign!r} cannot be given together with {made.param!r}", foreign)
    if problem and made.binds:
        raise problem
    return None if problem else made if len(made.likely) <= MAX_GRAMMAR else replace(made, likely="")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _refused(error: ContentFormatInvalid | RecursionError) -> ApiError:
    if isinstance(error, ContentFormatInvalid):
        return invalid(str(error), error.param)
    return invalid("what the answer must be is nested too deeply")
