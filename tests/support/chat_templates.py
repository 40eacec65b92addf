"""Chat templates, one of each kind in use: what they read of tool turns is all that differs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from quire_services.gateway.templates.chat_template import PromptEncoder, template_message
from tests.support.gateway import write_tokenizer

TOOLS = "{% if tools %}<|system|>{{ tools | tojson }}{% endif %}"
OPEN = "<bos>" + TOOLS + "{% for m in messages %}"
CLOSE = "<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}<|assistant|>"


def calls(body: str, condition: str = "m.tool_calls") -> str:
    """A template that writes each call with ``body``, of messages for which ``condition`` holds."""
    return OPEN + f"{{% if {condition} %}}<|assistant|>{body}{{% else %}}" + CLOSE


def each(body: str) -> str:
    """The same body for every call of a message; ``f`` is its function."""
    return "{% for t in m.tool_calls %}{% set f = t.function %}" + body + "{% endfor %}"


JSON = "{{ f.name }} {{ f.arguments | tojson }}"
REFUSE = "{{ raise_exception('%s') }}"
KINDS = {
    "any": calls(each("{{ f.name }} {% if f.arguments is string %}{{ f.arguments }}{% else %}" + JSON + "{% endif %}")),
    "content is null": calls(each("{{ f.name + f.arguments }}"), "m.tool_calls and m.content is none"),
    "content is absent": calls(each(JSON), "m.tool_calls and 'content' not in m"),
    "text arguments": calls("{{ m.content }}" + each("{{ f.name + f.arguments }}")),
    "object arguments": calls("{{ m.content }}" + each(JSON), "'tool_calls' in m"),
    "printed arguments": calls("{{ m.content }}" + each("{{ f.name }} {{ f.arguments }}")),
    "parameters": calls(
        "{{ m.content }}"
        + each("{{ f.name }}{% for k, v in f.arguments | items %}<parameter={{ k }}>{{ v }}{% endfor %}")
    ),
    "one call": calls(
        "{% if m.tool_calls | length != 1 %}" + REFUSE % "one call at once" + "{% endif %}" + each(JSON),
        "'tool_calls' in m",
    ),
    "the first call": calls("{% set f = m.tool_calls[0].function %}" + JSON, "'tool_calls' in m"),
    "nine characters": calls(
        each(JSON + "{% if t.id | length != 9 %}" + REFUSE % "nine" + "{% endif %} {{ t.id }}")
        + "{% elif m.role == 'tool' %}{% if m.tool_call_id | length != 9 %}"
        + REFUSE % "nine"
        + "{% endif %}<|tool|>{{ m.content }} {{ m.tool_call_id }}"
    ),
    "named answers": calls(each(JSON) + "{% elif m.role == 'tool' %}{{ '<|tool|>' + m.name + ' ' + m.content }}"),
}
WITHOUT = {
    "plain": "<bos>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>",
    "two roles": "<bos>{% for m in messages %}{% if m.role in ('user', 'assistant') %}"
    "<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}<|assistant|>",
    "alternating": "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    + REFUSE % "roles must alternate"
    + "{% endif %}<|{{ m.role }}|>{{ m.content }}{% endfor %}<|assistant|>",
}
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}


def encoder(folder: Path, template: Any = None, **files: str) -> PromptEncoder:
    """The encoder of a model directory with this template; ``files`` are further files, ``_`` for the dot."""
    write_tokenizer(folder, template=False)
    config = json.loads((folder / "tokenizer_config.json").read_text())
    if template is not None:
        config["chat_template"] = template
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    for name, text in files.items():
        (folder / ".".join(name.rsplit("_", 1))).write_text(text)
    return PromptEncoder.load(folder)


def call(name: str, arguments: Any, identity: str = "call_Ab12Cd34Ef56Gh78Ij90Kl12") -> dict[str, Any]:
    """A tool call as the API has it."""
    return {"id": identity, "type": "function", "function": {"name": name, "arguments": arguments}}


def said(*messages: dict[str, Any]) -> list[dict[str, Any]]:
    """Messages of the API as the gateway gives them to templates."""
    return [template_message(message, f"messages[{place}]") for place, message in enumerate(messages)]
