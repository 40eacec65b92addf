"""Tool calls: a compact call, with drafts of what its grammar forces, as the engine makes them, and without.

Forced are names of the function and of its parameters, and the rest of a value once its beginning leaves no other. How
much of that is drafted as the model writes it is the model's to say: so it is asked in words and shown a call, as chat
templates show them. Random models make nothing of either.
"""

from __future__ import annotations

from typing import Any

from bench.report.figures import median, say
from quire_proto.gateway_link import Generate, Sampling
from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.grammar.answer_grammar import answer_grammar
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of

from .held_rows import HeldRows

PARAMETERS = {
    "type": "object",
    "properties": {
        "location": {"type": "string", "minLength": 20, "maxLength": 30},
        "temperature_unit": {"enum": ["celsius", "fahrenheit"]},
        "forecast_days": {"type": "integer", "minimum": 1, "maximum": 14},
    },
    "required": ["location", "temperature_unit", "forecast_days"],
    "additionalProperties": False,
}
TOOLS = [{"type": "function", "function": {"name": "get_weather_forecast", "parameters": PARAMETERS}}]
SHOWN = '{"name": "get_weather_forecast", "arguments": {"location": "Lima, in the west of Peru", '
SHOWN += '"temperature_unit": "celsius", "forecast_days": 3}}'
ASKED = (
    "<|im_start|>system\nAnswer with a call of get_weather_forecast(location, temperature_unit, forecast_days) as in "
    f"<tool_call>\n{SHOWN}\n</tool_call><|im_end|>\n<|im_start|>user\nWhat will the weather be in %s in the next week?"
    "<|im_end|>\n<|im_start|>assistant\n"
)
CITIES = ("Paris", "Berlin", "Oslo", "Rome", "Cairo", "Delhi", "Seoul", "Quito")
LONGEST = 300
WAYS = {"without drafts": False, "with drafts": True}


def tool_calls(held: HeldRows, rows: int, pairs: int) -> list[dict[str, Any]]:
    """One call alone, then ``rows`` at once: medians of interleaved rounds, without drafts and with them."""
    choice = tool_choice_of("required", TOOLS)
    grammar, likely = (
        answer_grammar(FAMILIES["hermes"], choice, {}, reasoning=False, parallel=False, loose=loose).encode()
        for loose in (True, False)
    )
    sampling = Sampling(LONGEST, temperature=0.0, grammar=grammar, likely_grammar=likely)
    found = []
    for count in dict.fromkeys((1, rows)):
        rounds: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
        for pair in range(pairs):
            for way in list(WAYS)[:: 1 if pair % 2 == 0 else -1]:
                say(f"round {pair + 1}: {count} tool calls, {way} ...")
                rounds[way].append(_calls(held, count, sampling, WAYS[way]))
        for way, each in rounds.items():
            found.append({"calls": count, "way": way, **{key: median(one[key] for one in each) for key in each[0]}})
    return found


def _calls(held: HeldRows, count: int, sampling: Sampling, drafts: bool) -> dict[str, float]:
    prompts = [held.vocabulary.encode(ASKED % CITIES[number % len(CITIES)]) for number in range(count)]
    asked = [Generate(str(number), "t", pack_u32(prompt), sampling) for number, prompt in enumerate(prompts)]
    run = held.play(asked, drafts)
    assert all(seen.finish == "stop" for seen in run.seen.values()), "a call that came to no end"
    tokens = sum(len(seen.text) for seen in run.seen.values())
    return {
        "tokens": tokens / count,
        "forced": run.counters["forced_tokens"] / count,
        "tokens_a_step": tokens / sum(step["sequences"] for step in run.steps),
        "ms": 1000 * median(seen.tokens[-1] - seen.due for seen in run.seen.values()),
    }
