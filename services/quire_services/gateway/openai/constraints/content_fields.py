"""Content fields: the parameters that say what an answer's text must be, OpenAI's, vLLM's and vLLM's older ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire_services.gateway.openai.bodies import Body
from quire_services.gateway.tools.grammar.content_format import ContentFormat, content_format_of

_GUIDED = "guided_"
_GUIDES = ("json", "regex", "choice", "grammar", "whitespace_pattern")
CONTENT_FIELDS = ("response_format", "structured_outputs", *(_GUIDED + name for name in _GUIDES))
_ASKING = ("tools", "text", "output_config", *CONTENT_FIELDS)  # of chats, responses, messages


def asks_for_grammar(document: Mapping[str, Any]) -> bool:
    """Whether the body of a request, to any API, may ask for a grammar, as far as the names of its fields say."""
    return any(document.get(name) for name in _ASKING)


def content_asked_for(body: Body) -> ContentFormat | None:
    """What the text must be, None for any. Raises ContentFormatInvalid."""
    guided = {name: getattr(body, _GUIDED + name) or None for name in _GUIDES}
    return content_format_of(body.response_format, body.structured_outputs, guided)
