"""Answers as models of each family write them, and what they are."""

from __future__ import annotations

import json
from typing import Any

from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from quire_services.gateway.tools.parser.events import (
    AnswerEvent,
    ArgumentsDelta,
    ContentDelta,
    ReasoningDelta,
    ToolCallBegin,
    ToolCallEnd,
    joined,
)

WEATHER = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer"}, "hot": {"type": "boolean"}},
    "required": ["city"],
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "now"}},
]
CALLED = ("weather", {"city": "Rome", "days": 2})
NOW = ("now", {})


def parsed(family: str, *pieces: str, opened: bool = False) -> list[AnswerEvent]:
    """Events of an answer that comes in these pieces."""
    written = FAMILIES[family]
    parser = AnswerParser(written, TOOLS, written.reasoning if opened else None)
    events = [event for piece in pieces for event in parser.feed(piece)]
    return joined(events + parser.finish())


def summary(events: list[AnswerEvent]) -> list[Any]:
    """Events in short: content as text, reasoning after a ``~``, a call as its name and arguments, in a list where it
    does not end."""
    out: list[Any] = []
    for event in joined(events):
        match event:
            case ContentDelta():
                out.append(event.text)
            case ReasoningDelta():
                out.append(f"~{event.text}")
            case ToolCallBegin():
                out.append((event.name, ""))
            case ArgumentsDelta():
                out[-1] = (out[-1][0], out[-1][1] + event.text)
            case ToolCallEnd():
                name, arguments = out[-1]
                out[-1] = (name, json.loads(arguments)) if event.complete else [name, arguments]
    return out


_OBJECT = '{"name": "weather", "arguments": {"city": "Rome", "days": 2}}'
_LLAMA = '{"name": "weather", "parameters": {"city": "Rome", "days": 2}}'
_ARGUMENTS = '{"city": "Rome", "days": 2}'
_XML = (
    "<tool_call>\n<function=weather>\n<parameter=city>\nRome\n</parameter>\n<parameter=days>\n2\n</parameter>\n"
    "</function>\n</tool_call>"
)
_GLM = (
    "<tool_call>weather\n<arg_key>city</arg_key>\n<arg_value>Rome</arg_value>\n"
    "<arg_key>days</arg_key>\n<arg_value>2</arg_value>\n</tool_call>"
)
_HARMONY = f"<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{_ARGUMENTS}<|call|>"
_V3 = f"<｜tool▁call▁begin｜>function<｜tool▁sep｜>weather\n```json\n{_ARGUMENTS}\n```<｜tool▁call▁end｜>"
_V31 = f"<｜tool▁call▁begin｜>weather<｜tool▁sep｜>{_ARGUMENTS}<｜tool▁call▁end｜>"


def _kimi(name: str, arguments: str) -> str:
    return f"<|tool_call_begin|>functions.{name}<|tool_call_argument_begin|>{arguments}<|tool_call_end|>"


_BEGIN, _END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"

# (family, text, summary); of every family one call, several, and text around them
WELL_FORMED: list[tuple[str, str, list[Any]]] = [
    ("hermes", "Just text, 1 < 2.", ["Just text, 1 < 2."]),
    ("hermes", f"<tool_call>\n{_OBJECT}\n</tool_call>", [CALLED]),
    (
        "hermes",
        f'Both.\n<tool_call>\n{_OBJECT}\n</tool_call>\n<tool_call>\n{{"name": "now"}}\n</tool_call>\nDone.',
        ["Both.", CALLED, NOW, "\nDone."],
    ),
    (
        "hermes",
        f"<think>\nHm, <tool_call>?\n</think>\n\n<tool_call>{_OBJECT}</tool_call>",
        ["~Hm, <tool_call>?", CALLED],
    ),
    ("hermes", '<tool_call>{"arguments":{"city":"}\\""},"name":"weather"}</tool_call>', [("weather", {"city": '}"'})]),
    ("hermes", '<tool_call>{"name":"now","arguments":"{\\"a\\": 1}"}</tool_call>', [("now", {"a": 1})]),
    ("hermes", '<tool_call>{"name":"now","arguments":null}</tool_call>', [NOW]),
    ("hermes", f"<tool_call>\n{_OBJECT}}}\n</tool_call>", [CALLED]),
    ("qwen3_coder", _XML, [CALLED]),
    ("qwen3_coder", f"Now.\n\n{_XML}\n<tool_call>\n<function=now>\n</function>\n</tool_call>", ["Now.", CALLED, NOW]),
    (
        "qwen3_coder",
        '<tool_call><function=weather><parameter=city>\nA "b"\n\n<c>\n</parameter></function></tool_call>',
        [("weather", {"city": 'A "b"\n\n<c>'})],
    ),
    (
        "qwen3_coder",
        "<tool_call>\n<function=weather>\n<parameter=city>\n7\n</parameter>\n<parameter=hot>\nTrue\n</parameter>\n"
        "</function>\n</tool_call>",
        [("weather", {"city": "7", "hot": True})],
    ),
    ("glm45", f"<think>So.</think>\nSure.\n{_GLM}\n<tool_call>now\n</tool_call>", ["~So.", "Sure.", CALLED, NOW]),
    ("mistral", f'[TOOL_CALLS][{_OBJECT}, {{"name": "now", "arguments": {{}}, "id": "abcdefghi"}}]', [CALLED, NOW]),
    ("mistral", f"Hi.[TOOL_CALLS]weather[ARGS]{_ARGUMENTS}[TOOL_CALLS]now[ARGS]{{}}", ["Hi.", CALLED, NOW]),
    ("mistral", f"[TOOL_CALLS]weather[CALL_ID]abcdefghi[ARGS]{_ARGUMENTS}", [CALLED]),
    ("mistral", f"[TOOL_CALLS]weather{_ARGUMENTS}", [CALLED]),
    ("mistral", "[THINK]Why?[/THINK]Because.", ["~Why?", "Because."]),
    ("deepseek", f"{_BEGIN}{_V3}\n{_V3}{_END}", [CALLED, CALLED]),
    ("deepseek", f"<think>\nHm.\n</think>\n\nYes.\n\n{_BEGIN}{_V31}{_V31}{_END}", ["~Hm.", "Yes.", CALLED, CALLED]),
    (
        "seed_oss",
        "<seed:think>Hm.</seed:think>\n<seed:tool_call>\n<function=weather>\n<parameter=city>Rome</parameter>\n"
        "<parameter=days>2</parameter>\n</function>\n</seed:tool_call>",
        ["~Hm.", CALLED],
    ),
    (
        "minimax_m2",
        '\n<minimax:tool_call>\n<invoke name="weather">\n<parameter name="city">Rome</parameter>\n'
        '<parameter name="days">2</parameter>\n</invoke>\n<invoke name="now">\n</invoke>\n</minimax:tool_call>',
        [CALLED, NOW],
    ),
    ("nemotron", f'<TOOLCALL>[{_OBJECT}, {{"name": "now", "arguments": {{}}}}]</TOOLCALL>', [CALLED, NOW]),
    ("phi4_mini", f"Sure.<|tool_call|>{_OBJECT}<|/tool_call|>", ["Sure.", CALLED]),
    ("lfm2", "<|tool_call_start|>[weather(city='Rome', days=2), now()]<|tool_call_end|>Now.", [CALLED, NOW, "Now."]),
    (
        "kimi_k2",
        "Hm.<|tool_calls_section_begin|>"
        f"{_kimi('weather:0', _ARGUMENTS)}{_kimi('now:1', '{}')}<|tool_calls_section_end|>",
        ["Hm.", CALLED, NOW],
    ),
    ("harmony", f"<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant{_HARMONY}", ["~Hm.", CALLED]),
    ("harmony", f" to=functions.weather<|channel|>commentary json<|message|>{_ARGUMENTS}<|call|>", [CALLED]),
    ("harmony", f"<|channel|>commentary to=functions.weather<|message|>{_ARGUMENTS}", [CALLED]),
    (
        "harmony",
        "<|channel|>commentary<|message|>First.<|end|><|start|>assistant<|channel|>final<|message|>a <b><|return|>",
        ["First.\na <b>"],
    ),
    ("llama3_json", _LLAMA, [CALLED]),
    ("llama3_json", f'<|python_tag|>{_LLAMA}; {{"name": "now", "parameters": {{}}}}', [CALLED, NOW]),
    ("llama3_json", f'{{"type": "function", {_LLAMA[1:]}', [CALLED]),
    ("llama3_json", f"Call {_LLAMA}", [f"Call {_LLAMA}"]),
    ("pythonic", '[weather(city="Rome", days=2)]', [CALLED]),
    ("pythonic", "[weather(city='a, (b', hot=True), now()]", [("weather", {"city": "a, (b", "hot": True}), NOW]),
    ("pythonic", '<|python_start|>[weather("Rome", days=2)]<|python_end|>', [CALLED]),
    ("pythonic", "[1, 2] is a list", ["[1, 2] is a list"]),
]

# what looks like a call and is none
MALFORMED: list[tuple[str, str]] = [
    ("hermes", "<tool_call>\nno call\n</tool_call>"),
    ("hermes", '<tool_call>\n{"name": 7, "arguments": {}}\n</tool_call>'),
    ("hermes", '<tool_call>\n{"name": "weather", "arguments": [1]}\n</tool_call>'),
    ("hermes", '<tool_call>{"arguments": {"city": "Rome"}}</tool_call>'),
    ("hermes", "a <tool_cal"),
    ("qwen3_coder", "<tool_call>\n<func=weather>\n</tool_call>"),
    ("mistral", "[TOOL_CALLS] none, as I said"),
    ("mistral", '[TOOL_CALLS][{"call": 1}]'),
    ("deepseek", f"{_BEGIN}{_END}"),
    ("harmony", "<|channel|>comment"),
    ("llama3_json", '{"name": "Bob", "parameters": {}}'),
    ("llama3_json", '{"result": 5}'),
    ("pythonic", "[open(1)]"),
    ("glm45", "<tool_call>\n</tool_call>"),
]

CUT: list[tuple[str, str, list[Any]]] = [
    ("hermes", '<tool_call>\n{"name": "wea', []),
    ("hermes", 'Hi. <tool_call>\n{"name"', ["Hi."]),
    ("hermes", f'<tool_call>\n{_OBJECT}\n</tool_call>\n<tool_call>\n{{"na', [CALLED]),
    ("hermes", f"<tool_call>\n{_OBJECT}\n</tool_ca", [CALLED]),
    ("qwen3_coder", "<tool_call>\n<function=wea", []),
    ("mistral", "[TOOL_CALLS]wea", []),
    ("mistral", f'[TOOL_CALLS][{_OBJECT}, {{"na', [CALLED]),
    ("deepseek", f"{_BEGIN}<｜tool▁call▁begin｜>function<｜tool▁sep｜>", []),
    ("deepseek", f"{_BEGIN}<｜tool▁ca", []),
]
