"""What the model of the client suites plays: scripts, and plays of several of them, a script an answer.

A message that says ``play NAME.`` starts a play; the answers after it are its scripts in turn, and the last script is
repeated. Without one the model says a sentence. So a suite decides what the model wants to do, in words that any
framework passes on, and whatever comes out otherwise is the gateway's mistake or the framework's.

Calls are written as Hermes models write them, reasoning as Qwen3's.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from tests.clients.player import make_player, mark


def words(text: str) -> list[str]:
    """A text in pieces; a word that was there takes the next one with it."""
    found: list[str] = []
    for piece in re.findall(r"\s*\S+", text):
        if found and found.count(found[-1]) > 1:
            found[-1] += piece
        else:
            found.append(piece)
    return found


def fields(**values: Any) -> list[str]:
    """An object in pieces: what a grammar writes, and what it leaves to the model."""
    found, behind = [], "{"
    for name, value in values.items():
        text = json.dumps(value).strip('"')
        quote = '"' if isinstance(value, str) else ""
        found += [f'{behind}"{name}": {quote}', text]
        behind = f"{quote}, "
    return [*found, behind.removesuffix(", ") + "}"] if values else ["{}"]


def call(name: str, **arguments: Any) -> list[str]:
    first, *rest = fields(**arguments)
    return [
        "<tool_call>\n",
        '{"name": "',
        name,
        '", "arguments": ',
        first,
        *rest[:-1],
        f"{(rest or [''])[-1]}}}",
        "\n</tool_call>",
    ]


def thought(text: str) -> list[str]:
    return ["<think>\n", *words(text), "\n</think>\n\n"]


ANSWER = "It is sunny in Berlin: 21 degrees."
SCRIPTS = {
    "sentence": words("Paris is the capital of France, as far as I know."),
    "berlin": call("get_weather", city="Berlin"),
    "sunny": words(ANSWER),
    # The second call in pieces of its own, since a token is followed by the same one each time.
    "pair": [
        *call("get_weather", city="Oslo")[:-2], '"}}\n</tool', "_call>\n<tool_", 'call>\n{"name": "get',
        '_weather", "argum', 'ents": {"city": "Ro', "me", '"}}\n</tool_call>',
    ],
    "compared": words("Rome is warmer than Oslo."),
    "oslo": [*words("First the north."), "\n", *call("get_weather", city="Oslo")],
    "rome": call("get_weather", city="Rome"),
    "musing": [*thought("An easy one."), *words("It is Madrid, of course.")],
    "kyiv": [*thought("The user asks for weather."), *call("get_weather", city="Kyiv")],
    "object": fields(city="Berlin", degrees=21),
    "hot_object": fields(city="Berlin", degrees=2100),
    "record": call("Weather", city="Berlin", degrees=21),
    "partial": call("PartialWeather", city="Berlin", degrees=21),
    "hot_record": call("Weather", city="Berlin", degrees=2100),
    "result": call("final_result", city="Berlin", degrees=21),
    "handover": call("transfer_to_geographer"),
    "answer": call("final_answer", answer=ANSWER),
    "code": ["Thought:", " one", " line", " will", " do.\n", "<code>\n", "final_answer", "(6 * 7)", "\n</code>"],
}  # fmt: skip
PLAYS = {
    "nothing": ["sentence"],
    "call": ["berlin", "sunny"],
    "pair": ["pair", "compared"],
    "rounds": ["oslo", "rome", "compared"],
    "musing": ["musing"],
    "thoughtful": ["kyiv", "sunny"],
    "object": ["object"],
    "mended object": ["hot_object", "object"],
    "record": ["record"],
    "partial": ["partial"],
    "mended record": ["hot_record", "record"],
    "result": ["berlin", "result"],
    "handover": ["handover", "sentence"],
    "answer": ["berlin", "answer"],
    "code": ["code"],
    "call object": ["berlin", "object"],
}
TEMPLATE = (
    "<|bos|>{% set play = namespace(scripts=['sentence'], turn=0) %}"
    "{% if tools %}<|im_start|>system\n# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}<|im_end|>\n"
    "{% endif %}"
    "{% for m in messages %}{% set said = m.content or '' %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' %}{% set play.turn = play.turn + 1 %}"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{% endif %}"
    + "".join(
        f"{{% if 'play {name}.' in said %}}{{% set play.scripts = {scripts} %}}{{% set play.turn = 0 %}}{{% endif %}}"
        for name, scripts in PLAYS.items()
    )
    + "{{ said }}{% for t in m.tool_calls or [] %}{% set f = t.function %}"
    '\n<tool_call>\n{"name": "{{ f.name }}", "arguments": {{ f.arguments | tojson }}}\n</tool_call>{% endfor %}'
    "<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% set last = play.scripts | length - 1 %}"
    "{{ '<|' ~ play.scripts[play.turn if play.turn < last else last] ~ '|>' }}{% endif %}"
)


def make_model(directory: Path) -> Path:
    """Write the model to ``directory``, and return that."""
    assert {name for scripts in PLAYS.values() for name in scripts} == SCRIPTS.keys()
    assert mark("NAME") == "<|NAME|>"  # as the template spells it
    return make_player(directory, SCRIPTS, TEMPLATE)
