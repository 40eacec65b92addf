"""Rendering of published prompts: whatever the template does, no chat with the system message begins otherwise."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.chat import chat_tokens
from quire_services.gateway.published_prompts.preamble import Preamble
from quire_services.gateway.published_prompts.prompt_files import PublishError
from quire_services.gateway.published_prompts.rendered_prompt import render_prompt
from quire_services.gateway.templates.chat_template import PromptEncoder
from tests.support.gateway import write_tokenizer

LONGEST = 1 << 20
TURN = "<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
PLAIN = "<bos>{% for m in messages %}" + TURN
TRIMMED = PLAIN.replace("m.content", "m.content | trim")
TOOLS_BEHIND = (
    "<bos><|system|>{{ messages[0].content }}{% if tools %}\n{{ tools | tojson }}{% endif %}"
    "{% for m in messages[1:] %}" + TURN
)
TOOLS_BEFORE = "<bos>{% if tools %}{{ tools | tojson }}\n{% endif %}{% for m in messages %}" + TURN
IN_THE_LAST_TURN = (
    "<bos>{% for m in messages[1:] %}<|{{ m.role }}|>{% if loop.last %}{{ messages[0].content }}\n\n{% endif %}"
    "{{ m.content }}{% endfor %}"
)
USER_FIRST = (
    "{% if messages | length < 2 or messages[1].role != 'user' %}{{ raise_exception('a user first') }}{% endif %}"
) + PLAIN
DATED = PLAIN.replace("<bos>", "<bos>{{ strftime_now('%Y') }}")
TOOL = {"type": "function", "function": {"name": "look_up", "parameters": {"z": {"type": "string"}, "a": {}}}}
SYSTEM = "Pack my box with five dozen liquor jugs.\n"


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], PromptEncoder]:
    """Encoders of a byte-level tokenizer under different templates."""
    folder = tmp_path_factory.mktemp("templates")
    write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())

    @cache
    def make(template: str) -> PromptEncoder:
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        return PromptEncoder.load(folder)

    return make


def chat(encoder: PromptEncoder, *messages: tuple[str, str], tools: list[Any] | None = None) -> list[int]:
    """Tokens of a request as the gateway makes them."""
    body: dict[str, Any] = {"model": "m", "messages": [{"role": role, "content": text} for role, text in messages]}
    return chat_tokens(ChatBody.model_validate(body | ({"tools": tools} if tools else {})), encoder, "t")


@pytest.mark.parametrize("system", [SYSTEM, SYSTEM.strip()])
@pytest.mark.parametrize("template", [PLAIN, TRIMMED, TOOLS_BEHIND, TOOLS_BEFORE, USER_FIRST])
def test_every_chat_begins_with_it(encoder_of: Callable[[str], PromptEncoder], template: str, system: str) -> None:
    """Of one turn or several, with the file's last newline or without; and it holds the whole message."""
    encoder = encoder_of(template)
    tools = [TOOL] if "tools" in template else None
    rendered = render_prompt(encoder, Preamble.of_system(SYSTEM, tools), LONGEST)
    tokens = rendered.tokens
    if template == TOOLS_BEHIND and system == SYSTEM:
        assert ["newline" in note for note in rendered.notes] == [True]  # the tools stand behind it: one or the other
        return

    for turns in (
        [("user", "the quick brown fox")],
        [("user", "")],
        [("user", "jumps"), ("assistant", "over"), ("user", "the lazy dog")],
    ):
        assert chat(encoder, ("system", system), *turns, tools=tools)[: len(tokens)] == tokens
        assert chat(encoder, ("developer", system), *turns, tools=tools)[: len(tokens)] == tokens
    text = encoder.decode(tokens)
    assert SYSTEM.strip()[:-1] in text  # the last mark may belong to a token that the newline is part of
    assert not tools or "look_up" in text


@pytest.mark.parametrize("template", [PLAIN, TOOLS_BEHIND])
def test_it_says_all_that_is_common(encoder_of: Callable[[str], PromptEncoder], template: str) -> None:
    """One token more, and two chats differ there."""
    encoder = encoder_of(template)
    rendered = render_prompt(encoder, Preamble.of_system(SYSTEM.strip()), LONGEST)
    end = len(rendered.tokens)

    one = chat(encoder, ("system", SYSTEM.strip()), ("user", "a"))
    two = chat(encoder, ("system", SYSTEM.strip()), ("assistant", "a"), ("user", "b"))
    assert one[:end] == two[:end] == rendered.tokens
    assert one[end] != two[end]
    assert rendered.notes == ()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(system=st.text(min_size=1, max_size=60), user=st.text(max_size=20), newline=st.booleans())
@example(system="\n", user="", newline=False)
def test_every_chat_begins_with_it_whatever_it_says(
    encoder_of: Callable[[str], PromptEncoder], system: str, user: str, newline: bool
) -> None:
    """Any text, any user: a message that can be published is published right."""
    encoder = encoder_of(PLAIN)
    try:
        tokens = render_prompt(encoder, Preamble.of_system(system + "\n" * newline), LONGEST).tokens
    except PublishError:
        return
    assert chat(encoder, ("system", system), ("user", user))[: len(tokens)] == tokens


def test_a_template_that_moves_the_message_is_told_of(encoder_of: Callable[[str], PromptEncoder]) -> None:
    """Chats of one turn share it; those of several turns begin otherwise, which a note says."""
    encoder = encoder_of(IN_THE_LAST_TURN)
    rendered = render_prompt(encoder, Preamble.of_system(SYSTEM), LONGEST)

    assert chat(encoder, ("system", SYSTEM), ("user", "hi"))[: len(rendered.tokens)] == rendered.tokens
    assert "liquor jugs" in encoder.decode(rendered.tokens)
    assert "several turns" in rendered.notes[0]


def test_tools_that_the_template_does_not_write_are_refused(encoder_of: Callable[[str], PromptEncoder]) -> None:
    """No chat with them would be answered."""
    with pytest.raises(PublishError, match="writes no tools"):
        render_prompt(encoder_of(PLAIN), Preamble.of_system(SYSTEM, [TOOL]), LONGEST)


def test_a_note_on_dates(encoder_of: Callable[[str], PromptEncoder]) -> None:
    """A template that writes the date is told of."""
    assert "date" in render_prompt(encoder_of(DATED), Preamble.of_system(SYSTEM), LONGEST).notes[0]


def test_tools_are_part_of_it(encoder_of: Callable[[str], PromptEncoder]) -> None:
    """In the order in which they are given; without them a chat begins otherwise."""
    encoder = encoder_of(TOOLS_BEHIND)
    tokens = render_prompt(encoder, Preamble.of_system(SYSTEM, [TOOL]), LONGEST).tokens

    assert chat(encoder, ("system", SYSTEM), ("user", "hi"))[: len(tokens)] != tokens
    assert encoder.decode(tokens).index('"z"') < encoder.decode(tokens).index('"a"')


def test_one_that_does_not_fit_is_refused(encoder_of: Callable[[str], PromptEncoder]) -> None:
    """A model needs room for at least one more token."""
    encoder = encoder_of(PLAIN)
    length = len(render_prompt(encoder, Preamble.of_system(SYSTEM), LONGEST).tokens)

    assert render_prompt(encoder, Preamble.of_system(SYSTEM), length + 1).tokens
    with pytest.raises(PublishError, match=f"{length} tokens do not fit a model of {length}"):
        render_prompt(encoder, Preamble.of_system(SYSTEM), length)


def test_a_template_that_refuses_system_messages_refuses_them_here(
    encoder_of: Callable[[str], PromptEncoder],
) -> None:
    """With the template's own words."""
    with pytest.raises(PublishError, match="a user first"):
        render_prompt(encoder_of(USER_FIRST.replace("messages[1]", "messages[0]")), Preamble.of_system(SYSTEM), LONGEST)
