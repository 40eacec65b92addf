"""Chat templates that write calls as each family does: the calls are the family's, the rest is as short as can be."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import jinja2

START, END = "<|im_start|>", "<|im_end|>\n"
TOOLS = "{% if tools %}<|im_start|>system\n{{ tools | tojson }}<|im_end|>\n{% endif %}"


def template(calls: str, before: str = START + "assistant\n", after: str = END, prompt: str = "") -> str:
    """A template with ``calls`` for a message that has some."""
    return (
        f"{TOOLS}{{% for m in messages %}}{{% if m.tool_calls %}}{before}{calls}{after}"
        "{% else %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endif %}{% endfor %}"
        f"<|im_start|>assistant\n{prompt}"
    )


def each(body: str, separator: str = "") -> str:
    """``body`` for each call; ``f`` is its function."""
    loop = "{% for t in m.tool_calls %}{% set f = t.function %}" + body
    return loop + f"{{% if not loop.last %}}{separator}{{% endif %}}{{% endfor %}}"


def one(body: str) -> str:
    """``body`` for a message's only call."""
    refuse = "{% if m.tool_calls | length > 1 %}{{ raise_exception('one call at once') }}{% endif %}"
    return refuse + "{% set f = m.tool_calls[0].function %}" + body


ARGUMENTS = "{{ f.arguments | tojson }}"
OBJECT = '{"name": "{{ f.name }}", "arguments": ' + ARGUMENTS
HERMES = each(f"<tool_call>\n{OBJECT}}}\n</tool_call>", "\n")
XML = (
    "<tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
    "<parameter={{ k }}>\n{{ v }}\n</parameter>\n{% endfor %}</function>\n</tool_call>"
)
GLM = (
    "<tool_call>{{ f.name }}\n{% for k, v in f.arguments.items() %}"
    "<arg_key>{{ k }}</arg_key>\n<arg_value>{{ v }}</arg_value>\n{% endfor %}</tool_call>"
)
SEED = (
    "<seed:tool_call>\n<function={{ f.name }}>\n{% for k, v in f.arguments.items() %}"
    "<parameter={{ k }}>{{ v }}</parameter>\n{% endfor %}</function>\n</seed:tool_call>"
)
INVOKE = (
    '<invoke name="{{ f.name }}">\n{% for k, v in f.arguments.items() %}'
    '<parameter name="{{ k }}">{{ v }}</parameter>\n{% endfor %}</invoke>\n'
)
V3 = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>{{ f.name }}\n```json\n" + ARGUMENTS + "\n```<｜tool▁call▁end｜>"
V31 = "<｜tool▁call▁begin｜>{{ f.name }}<｜tool▁sep｜>" + ARGUMENTS + "<｜tool▁call▁end｜>"
KEYWORDS = "{% for k, v in f.arguments.items() %}{{ k }}={{ v | tojson }}{{ ', ' if not loop.last }}{% endfor %}"
_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

# family -> (template, what the chosen form begins with)
FAMILY_TEMPLATES: dict[str, list[tuple[str, str]]] = {
    "hermes": [
        (template(HERMES), "<tool_call>\n"),
        (template(HERMES, prompt="<think>\n"), "<tool_call>\n"),
        (template(HERMES, before=START + "assistant\n<think>\n\n</think>\n\n"), "<tool_call>\n"),
    ],
    "qwen3_coder": [(template(each(XML, "\n")), "<tool_call>\n<function=")],
    "glm45": [(template(each(GLM, "\n")), "<tool_call>")],
    "mistral": [
        (template(f"[TOOL_CALLS][{each(OBJECT + '}', ', ')}]", before=""), "[TOOL_CALLS]["),
        (template(each(f"[TOOL_CALLS]{{{{ f.name }}}}[ARGS]{ARGUMENTS}"), before=""), "[TOOL_CALLS]"),
    ],
    "deepseek": [
        (template(_BEGIN + each(V3, "\n") + _END, prompt="<think>\n"), _BEGIN),
        (template(_BEGIN + each(V31) + _END), _BEGIN),
    ],
    "seed_oss": [(template(each(SEED, "\n")), "<seed:tool_call>\n<function=")],
    "minimax_m2": [
        (
            template("<minimax:tool_call>\n" + each(INVOKE) + "</minimax:tool_call>", prompt="<think>\n"),
            "<minimax:tool_call>\n",
        )
    ],
    "nemotron": [(template(f"<TOOLCALL>[{each(OBJECT + '}', ', ')}]</TOOLCALL>", prompt="<think>\n"), "<TOOLCALL>[")],
    "phi4_mini": [(template(each(f"<|tool_call|>{OBJECT}}}<|/tool_call|>")), "<|tool_call|>")],
    "lfm2": [
        (
            template(f"<|tool_call_start|>[{each('{{ f.name }}(' + KEYWORDS + ')', ', ')}]<|tool_call_end|>"),
            "<|tool_call_start|>[",
        )
    ],
    "kimi_k2": [
        (
            template(
                "<|tool_calls_section_begin|>"
                + each(
                    "<|tool_call_begin|>functions.{{ f.name }}:{{ loop.index0 }}<|tool_call_argument_begin|>"
                    + ARGUMENTS
                    + "<|tool_call_end|>"
                )
                + "<|tool_calls_section_end|>"
            ),
            "<|tool_calls_section_begin|>",
        )
    ],
    "harmony": [
        (
            template(
                one(" to=functions.{{ f.name }}<|channel|>commentary json<|message|>" + ARGUMENTS + "<|call|>"),
                before="<|start|>assistant",
                after="",
            ).replace("<|im_start|>{{ m.role }}\n", "<|start|>{{ m.role }}<|channel|>final<|message|>"),
            "<|channel|>commentary to=functions.",
        )
    ],
    "llama3_json": [(template(one(OBJECT.replace('arguments"', 'parameters"') + "}")), "")],
    "pythonic": [(template(f"[{each('{{ f.name }}(' + KEYWORDS + ')', ', ')}]"), "[")],
}


@cache
def renderer(source: str) -> Callable[[list[dict[str, Any]], list[Any] | None], str]:
    """Renders conversations, their arguments as objects."""

    def refuse(message: str) -> None:
        raise jinja2.TemplateError(message)

    environment = jinja2.Environment()
    environment.policies["json.dumps_kwargs"] = {"sort_keys": False, "ensure_ascii": False}
    compiled = environment.from_string(source, globals={"raise_exception": refuse})

    def render(messages: list[dict[str, Any]], tools: list[Any] | None) -> str:
        return compiled.render(messages=[_with_objects(message) for message in messages], tools=tools)

    return render


def _with_objects(message: dict[str, Any]) -> dict[str, Any]:
    calls = [
        {**call, "function": {**call["function"], "arguments": json.loads(call["function"]["arguments"])}}
        for call in message.get("tool_calls", ())
    ]
    return {**message, **({"tool_calls": calls} if calls else {})}
