"""Chat templates put together at random: no tool call, answer or tool is lost without a word under any of them."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.templates.model_templates import Templates
from tests.support.chat_templates import REFUSE, TOOL, call, each, said

CONDITIONS = (
    "m.tool_calls",
    "'tool_calls' in m",
    "m.tool_calls and m.content is none",
    "m.tool_calls and not m.content",
    "m.tool_calls and 'content' not in m",
    "m.tool_calls and m.content is string",
    "m.tool_calls and loop.last",
    "m.tool_calls and loop.index0 < 4",
    "m.tool_calls and m.tool_calls | length == 1",
    "m.tool_calls and tools",
    "m.function_call",
    "false",
)
BODIES = (
    each("{{ f.name }} {{ f.arguments | tojson }}"),
    each("{{ f.name + ' ' + f.arguments }}"),
    each("{{ f.name }} {{ f.arguments }}"),
    each("{{ f.name }}{% for k, v in f.arguments | items %} {{ k }}={{ v }}{% endfor %}"),
    each("{{ f.name }} {{ f.arguments.unit }}"),
    each("{{ f.name }}"),
    "{% set f = m.tool_calls[0].function %}{{ f.name }} {{ f.arguments | tojson }}",
    "{% set f = m.tool_calls[-1].function %}{{ f.name }} {{ f.arguments | tojson }}",
    "{{ m.tool_calls | tojson }}",
    "",
)
BESIDE = ("{{ m.content }}", "{% if m.content %}{{ m.content }}{% endif %}", "{{ m.content or '' }}", "")
ANSWERS = (
    "<|tool|>{{ m.content }}",
    "<|tool|>{{ m.name + ' ' + m.content }}",
    "<|tool|>{{ m.tool_call_id }} {{ m.content }}",
    "{% if loop.last %}<|tool|>{{ m.content }}{% endif %}",
    "{% if loop.previtem.role == 'assistant' %}<|tool|>{{ m.content }}{% endif %}",
    "{% if loop.index0 != loop.length - 2 %}<|tool|>{{ m.content[:3] }}{{ m.content[3:] }}{% endif %}",
    REFUSE % "no tools here",
    "",
)
CHECKS = (
    "",
    "{% if m.tool_calls and m.tool_calls | length > 1 %}" + REFUSE % "one at once" + "{% endif %}",
    "{% if m.tool_calls and m.tool_calls[0].id | length != 9 %}" + REFUSE % "nine" + "{% endif %}",
    "{% if m.tool_calls and m.content %}" + REFUSE % "content or calls" + "{% endif %}",
    "{% if m.role == loop.previtem.role %}" + REFUSE % "alternate" + "{% endif %}",
)
TOOLS = (
    "{% if tools %}<|system|>{{ tools | tojson }}{% endif %}",
    "{% for t in tools %}<|system|>{{ t.function.name }}{% endfor %}",
    "{% if tools and messages[0].role == 'system' %}<|system|>{{ tools | tojson }}{% endif %}",
    "{% if tools and messages | length == 1 %}<|system|>{{ tools | tojson }}{% endif %}",
    "",
)
SOURCES = st.builds(
    lambda tools, check, condition, beside, body, answer: (
        f"<bos>{tools}{{% for m in messages %}}{check}{{% if {condition} %}}<|assistant|>{beside}{body}"
        f"{{% elif m.role == 'tool' %}}{answer}{{% else %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}{{% endif %}}"
        "{% endfor %}<|assistant|>"
    ),
    *(st.sampled_from(parts) for parts in (TOOLS, CHECKS, CONDITIONS, BESIDE, BODIES, ANSWERS)),
)
ROUNDS = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([None, "", "let me see"]), st.booleans()), min_size=1, max_size=3
)


def conversation(rounds: list[tuple[int, str | None, bool]]) -> tuple[list[dict[str, Any]], list[str]]:
    """Messages and the words of calls and answers in them, each of which the first user mentions, too."""
    messages: list[dict[str, Any]] = []
    words: list[str] = []
    for number, (calls, content, turned) in enumerate(rounds):
        messages.append({"role": "user", "content": "how is it"})
        made = [
            call(f"run_{number}x{place}", f'{{"unit": "val{number}x{place}"}}', f"call_{number}_{place}" + "a" * 20)
            for place in range(calls)
        ]
        answers = [
            {"role": "tool", "tool_call_id": one["id"], "content": f"answer{number}x{place}"}
            for place, one in enumerate(made)
        ]
        if made:
            messages += [
                {"role": "assistant", "content": content, "tool_calls": made},
                *answers[:: -1 if turned else 1],
            ]
            words += [f"{word}{number}x{place}" for place in range(calls) for word in ("run_", "val", "answer")]
        messages.append({"role": "assistant", "content": "it is well"})
    messages[0] = {"role": "user", "content": " ".join(["how is it", *words])}
    return messages[:-1], words


@settings(deadline=None, max_examples=80, suppress_health_check=[HealthCheck.too_slow])
@given(source=SOURCES, rounds=ROUNDS, tools=st.sampled_from([None, [TOOL]]))
def test_nothing_is_lost_without_a_word(source: str, rounds: list[tuple[int, str | None, bool]], tools: Any) -> None:
    """Every call's name, its arguments and its answer are in the prompt, and the tools are, or the chat is refused."""
    messages, words = conversation(rounds)
    try:
        text = Templates(source, {"bos_token": "<bos>"}).render(said(*messages), tools, {})
    except ApiError as error:
        event("refused")
        if error.status != 400:
            raise
        return
    event("rendered")
    asked, _, rest = text.partition(messages[0]["content"])
    assert [word for word in words if word not in rest] == []
    assert not tools or TOOL["function"]["name"] in asked + rest.replace("look_up", "", words.count("look_up"))
