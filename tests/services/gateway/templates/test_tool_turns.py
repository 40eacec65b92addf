"""Tool turns: every call, its arguments and its answer are in the prompt, or the chat is refused."""

from __future__ import annotations

import itertools
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.templates.call_ids import nine_characters
from quire_services.gateway.templates.chat_template import LoadError, PromptEncoder, template_message
from tests.support.chat_templates import CLOSE, KINDS, OPEN, REFUSE, TOOL, WITHOUT, call, encoder, said

USER = {"role": "user", "content": "how is it"}
ONE, TWO = "call_" + "a1" * 12, "call_" + "b2" * 12
LONG = [
    USER,
    {
        "role": "assistant",
        "content": "let me see",
        "tool_calls": [call("look_up", '{"city": "Rome"}', ONE), call("measure", '{"unit": "Celsius"}', TWO)],
    },
    {"role": "tool", "tool_call_id": ONE, "content": "SUNNY"},
    {"role": "tool", "tool_call_id": TWO, "content": "WARM"},
    {"role": "assistant", "content": "sunny and warm", "tool_calls": [], "refusal": None},
    {"role": "user", "content": "thanks"},
    {"role": "assistant", "content": None, "tool_calls": [call("finish", "null", "abcdefghi")]},
    {"role": "tool", "tool_call_id": "abcdefghi", "content": "DONE"},
]


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Encoders by template."""

    @cache
    def make(template: str) -> PromptEncoder:
        return encoder(tmp_path_factory.mktemp("template"), template)

    return make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tools", [None, [TOOL]])
def test_all_of_a_conversation_is_in_the_prompt(encoder_of: Any, kind: str, tools: Any) -> None:
    """Text beside calls, several calls at once, a call without arguments, answers, in the order in which they were."""
    made = encoder_of(KINDS[kind])
    text = made.render(said(*LONG), tools)

    assert made.notes == ()
    for word in ("let me see", "SUNNY", "WARM", "sunny and warm", "thanks", "measure", "finish", "DONE"):
        assert word in text
    said_before = text.index("let me see") < text.index("Rome") < text.index("SUNNY") < text.index("WARM")
    assert said_before
    assert text.index("Celsius") < text.index("WARM")
    after = text[text.index("finish") :]
    assert "null" not in after
    assert "None" not in text
    assert '\\"' not in text
    assert "'city'" not in text
    assert not tools or TOOL["function"]["name"] in text.partition("how is it")[0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_that_goes_on_keeps_its_beginning(encoder_of: Any, kind: str) -> None:
    """What was said before has the same text after the next turn, so that it is not computed again."""
    made, end = encoder_of(KINDS[kind]), len("<|assistant|>")
    texts = [made.render(said(*LONG[:turns]))[:-end] for turns in (1, 4, 6, 8)]

    assert all(later.startswith(earlier) for earlier, later in itertools.pairwise(texts))


@pytest.mark.parametrize("kind", WITHOUT)
def test_a_template_without_tools_refuses_them(encoder_of: Any, kind: str) -> None:
    """Tools, calls and answers that the model would not see; plain chats go on; and it is said at load."""
    made = encoder_of(WITHOUT[kind])

    assert "writes no tool calls and no tools" in made.notes[0]
    assert "how is it" in made.render(said(USER))
    with pytest.raises(ApiError, match="writes no tools") as refused:
        made.render(said(USER), [TOOL])
    assert (refused.value.status, refused.value.param) == (400, "tools")
    with pytest.raises(ApiError) as refused:
        made.render(said(*LONG[:4]))
    assert (refused.value.status, refused.value.param) == (400, "messages")


def test_what_is_left_out_of_one_chat_only_is_noticed(encoder_of: Any) -> None:
    """A template may write the sample and leave out what a client sends; a name that a user mentions hides nothing."""
    only_last = KINDS["any"].replace("m.tool_calls %}", "m.tool_calls and loop.revindex <= 2 %}", 1)
    made = encoder_of(only_last)
    mentions = {"role": "user", "content": "call look_up with Rome, and measure with Celsius"}

    assert "Rome" in made.render(said(mentions, *LONG[1:3]))
    with pytest.raises(ApiError, match=r"leaves out messages\[1\].tool_calls\[0\]"):
        made.render(said(mentions, *LONG[1:]))


def test_one_that_writes_only_some_calls_refuses_the_rest(encoder_of: Any) -> None:
    """Two of three calls shown, even told one by one: the third is not dropped but refused."""
    made = encoder_of(
        OPEN + "{% if m.tool_calls and loop.index0 < 4 %}{{ m.tool_calls[0].function | tojson }}{% else %}" + CLOSE
    )
    with pytest.raises(ApiError, match="leaves out"):
        made.render(said(*LONG))


def test_calls_as_they_were_before_there_were_several(encoder_of: Any) -> None:
    """A ``function_call`` that the template does not read is refused, one that it reads is served."""
    old = {"role": "assistant", "content": None, "function_call": {"name": "look_up", "arguments": "{}"}}
    with pytest.raises(ApiError, match=r"leaves out messages\[1\].function_call"):
        encoder_of(KINDS["any"]).render(said(USER, old))
    reads = KINDS["any"].replace(
        "{% if m.tool_calls", "{% if m.function_call %}{{ m.function_call | tojson }}{% elif m.tool_calls"
    )
    assert "look_up" in encoder_of(reads).render(said(USER, old))


def test_a_template_that_looks_at_names_is_checked_by_them(encoder_of: Any) -> None:
    """One that refuses names it does not know still gets what it knows, and loses nothing."""
    body = (
        "{% if m.tool_calls[0].function.name not in ('look_up', 'qzxname0') %}"
        + REFUSE % "unknown tool"
        + "{% endif %}"
    )
    knows = KINDS["any"].replace("<|assistant|>", "<|assistant|>" + body, 1)
    made = encoder_of(knows)

    assert "Rome" in made.render(said(USER, {**LONG[1], "tool_calls": LONG[1]["tool_calls"][:1]}, LONG[2]))
    with pytest.raises(ApiError, match="unknown tool"):
        made.render(said(USER, {**LONG[1], "tool_calls": LONG[1]["tool_calls"][1:]}, LONG[3]))


@pytest.mark.parametrize(
    ("given", "written"),
    [
        (None, "{}"),
        ("", "{}"),
        (" ", "{}"),
        ("null", "{}"),
        ("{}", "{}"),
        ({}, "{}"),
        ('{"é": [1, null]}', '{"é": [1, null]}'),
        ({"a": "b"}, '{"a": "b"}'),
    ],
)
@pytest.mark.parametrize("kind", ["text arguments", "object arguments"])
def test_arguments_are_objects(encoder_of: Any, kind: str, given: Any, written: str) -> None:
    """However a client spells them, also where it means none; text that is an object already stays as it is."""
    turn = {"role": "assistant", "tool_calls": [call("look_up", given)]}
    assert written in encoder_of(KINDS[kind]).render(said(USER, turn)).partition("look_up")[2]


@pytest.mark.parametrize("arguments", ["{", "nope", "[" * 100_000])
def test_arguments_that_are_not_json_are_refused(arguments: str) -> None:
    """With their place; however deep they nest."""
    with pytest.raises(ApiError) as refused:
        template_message({"role": "assistant", "tool_calls": [call("f", arguments)]}, "messages[3]")
    assert refused.value.param == "messages[3].tool_calls[0].function.arguments"
    for function in (None, {}, {"name": ""}, {"name": 5}):
        with pytest.raises(ApiError, match="function with a name"):
            template_message({"role": "assistant", "tool_calls": [{"id": "x", "function": function}]}, "messages[3]")


def test_ids_of_nine_characters() -> None:
    """One that fits stays, others become the same in every conversation, and no two become one."""
    first = nine_characters([ONE, "abcdefghi", TWO])
    assert first["abcdefghi"] == "abcdefghi"
    assert all(len(short) == 9 and short.isalnum() for short in first.values())
    assert nine_characters([TWO, ONE]) == {TWO: first[TWO], ONE: first[ONE]}
    clash = nine_characters([ONE, first[ONE]])
    assert clash[first[ONE]] == first[ONE]
    assert clash[ONE] != first[ONE]
    many = [f"call_{number}" for number in range(5000)]
    assert len(set(nine_characters(many).values())) == 5000


def test_a_call_and_its_answer_have_one_id(encoder_of: Any) -> None:
    """In the form that the template takes."""
    text = encoder_of(KINDS["nine characters"]).render(said(*LONG))
    short = nine_characters([ONE])[ONE]
    assert text.count(short) == 2
    assert text.index("Rome") < text.index(short) < text.index("SUNNY") < text.rindex(short)


def test_templates_by_name(tmp_path: Path) -> None:
    """``tool_use`` is for chats with tools, or with calls that the default does not write."""
    named = [{"name": "default", "template": WITHOUT["plain"]}, {"name": "tool_use", "template": KINDS["any"]}]
    made = encoder(tmp_path, named)

    assert "look_up" in made.render(said(USER), [TOOL])
    assert "Rome" in made.render(said(*LONG))
    assert made.render(said(USER)) == encoder(tmp_path, WITHOUT["plain"]).render(said(USER))
    only = encoder(tmp_path, named[1:])
    assert "no chat template is named 'default'" in only.notes[-1]
    with pytest.raises(ApiError, match="without tools"):
        only.render(said(USER))


def test_the_template_of_a_processor(tmp_path: Path) -> None:
    """``chat_template.json`` is read where the tokenizer has none; ``chat_template.jinja`` comes before it."""
    from_json = encoder(tmp_path, chat_template_json='{"chat_template": "json {{ messages[0].content }}"}')
    assert from_json.render(said(USER)) == "json how is it"
    both = encoder(tmp_path, chat_template_jinja="jinja {{ messages[0].content }}")
    assert both.render(said(USER)) == "jinja how is it"


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        ({"template": "{% for m in messages %}\n{{ m.content }\n{% endfor %}"}, "line 2"),
        ({"template": "{{ messages | no_such_filter }}"}, "no_such_filter"),
        ({"chat_template_jinja": "{% if %}"}, "line 1"),
        ({"chat_template_json": '{"chat_template": "{{ }}"}'}, "line 1"),
        ({"chat_template_json": "{"}, "chat_template.json holds no chat template"),
        ({"chat_template_json": "[]"}, "chat_template.json holds no chat template"),
        ({"template": 5}, "is not text"),
    ],
)
def test_a_template_that_is_not_valid_is_refused_at_load(tmp_path: Path, files: dict[str, Any], reason: str) -> None:
    """In one line that names the model and the place, not at the first request."""
    with pytest.raises(LoadError) as refused:
        encoder(tmp_path, **files)
    assert reason in str(refused.value)
    assert str(tmp_path) in str(refused.value)
    assert "\n" not in str(refused.value)
