"""Parameters of a message request that are no fields of its body: accepted without effect, or refused by name.

The rule is that of chats (``openai.parameters``): what cannot change the answer is accepted, what would change it and
is not served is refused. What only the APIs of OpenAI and vLLM have is refused as well, unless its value changes
nothing: a client that sends it counts on it. ``docs/operate/messages.md`` has all in a table.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from quire_services.gateway.http.errors import invalid, other_api, unsupported
from quire_services.gateway.openai.parameters import PARAMETERS_BY_NAME

ACCEPTED = frozenset(
    {
        "billing_policy",
        "cache_control",
        "diagnostics",
        "fallback_credit_token",
        "fallbacks",
        "inference_geo",
        "service_tier",
        "speed",
        "user_profile_id",
    }
)
REFUSED = {
    "compaction": "nothing is compacted; send what of the conversation is to be answered",
    "container": "nothing runs here beside the model",
    "context_management": "nothing of a conversation is cleared here but earlier reasoning"
    " ('clear_thinking_20251015'); leave out of 'messages' what the model is not to see",
    "mcp_servers": "nothing runs here beside the model; send their tools in 'tools', and run them yourself",
    "thread": "no conversation is kept here; send all of it",
}
_CLEARED_THINKING = "clear_thinking_20251015"  # which of its reasoning a model sees again is the chat template's to say


def refuse_unserved(more: Mapping[str, Any] | None) -> None:
    """Raise ApiError 400 for the first field that would change the answer and is not served."""
    for name, value in (more or {}).items():
        if not value or name in ACCEPTED or (name == "context_management" and _harmless_edits(value)):
            continue
        if name == "thread":  # by this code its clients know that they have to send the whole conversation
            raise invalid(f"{name!r} is not served: {REFUSED[name]}", name, "thread_unsupported_request")
        if name in REFUSED:
            raise unsupported(name, REFUSED[name])
        known = PARAMETERS_BY_NAME.get(name)
        if known is not None and not known.accepts(value, "messages"):
            raise other_api(name, " and ".join(known.openai or known.vllm))


def _harmless_edits(value: Any) -> bool:
    edits = value.get("edits") if isinstance(value, dict) else None
    return isinstance(edits, list) and all(
        isinstance(edit, dict) and edit.get("type") == _CLEARED_THINKING for edit in edits
    )
