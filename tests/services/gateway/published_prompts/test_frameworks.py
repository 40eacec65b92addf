"""Requests as agent frameworks really send them: one prompt with tools, published once or in variants, is hit by all.

The requests are what ``scripts/record_framework_chats.py`` wrote down: every framework was given the same system
message and the same two functions.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from quire_kv import Publication
from quire_proto.step.publication_matcher import PublicationList
from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.chat import chat_tokens
from quire_services.gateway.openai.json_body import validated
from quire_services.gateway.openai.limits import Limits
from quire_services.gateway.openai.parameters import CHAT, RESPONSES
from quire_services.gateway.openai.sampling_defaults import SamplingDefaults
from quire_services.gateway.published_prompts.preamble import preamble_of
from quire_services.gateway.published_prompts.rendered_prompt import render_prompt
from quire_services.gateway.readers.request_reader import MESSAGES, RequestReader
from quire_services.gateway.templates.chat_template import PromptEncoder
from tests.support import puppet
from tests.support.gateway import write_tokenizer

LONGEST = 1 << 20
REQUESTS = {file.stem: json.loads(file.read_text()) for file in Path(__file__).parent.glob("requests/*.json")}
# Equal functions, and the system message as it was given. LlamaIndex puts the function's signature in front of its
# description, smolagents wants descriptions of parameters, CrewAI writes a system message around the given one.
ALIKE = ("openai", "litellm", "langchain", "openai_agents", "pydantic_ai", "autogen", "instructor")
OTHERS = ("llamaindex", "crewai", "smolagents")
TOOLS_FIRST = puppet.TEMPLATE
SYSTEM_FIRST = (  # as Qwen's templates are
    "<bos>{% set s = messages[0].content if messages[0].role == 'system' else '' %}<|system|>{{ s }}{% if tools %}\n\n"
    "# Tools\n{% for t in tools %}{{ t | tojson }}\n{% endfor %}{% endif %}{% for m in messages %}"
    "{% if m.role != 'system' %}<|{{ m.role }}|>{{ m.content }}{% endif %}{% endfor %}<|assistant|>"
)
TOOLS_LAST = (
    "<bos>{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    "{% if tools %}<|system|>{{ tools | tojson }}{% endif %}<|assistant|>"
)


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, bool], PromptEncoder]:
    """Encoders by template and by whether it sees canonical tools."""
    folder = tmp_path_factory.mktemp("frameworks")
    write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())

    @cache
    def make(template: str, canonical: bool) -> PromptEncoder:
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        return PromptEncoder.load(folder, canonical=canonical)

    return make


def published(encoder: PromptEncoder, framework: str, **options: bool) -> bytes:
    """What publishing a framework's request publishes."""
    begin = preamble_of(REQUESTS[framework], encoder, **options)
    return pack_u32(render_prompt(encoder, begin, LONGEST).tokens)


def hit(encoder: PromptEncoder, framework: str, *prompts: bytes) -> int:
    """Tokens of a framework's request, with another question in it, that a publication answers."""
    body = json.loads(json.dumps(REQUESTS[framework]))
    body["messages"][-1]["content"] = "And Oslo?"
    tokens = pack_u32(chat_tokens(validated(ChatBody, body), encoder, "t"))
    listed = PublicationList(
        [Publication(f"p@{place}", 2, "public", one, "ready") for place, one in enumerate(prompts)]
    )
    found = listed.match(tokens)
    return len(found.tokens) // 4 if found else 0


@pytest.mark.parametrize("template", [TOOLS_FIRST, SYSTEM_FIRST])
@pytest.mark.parametrize("framework", ALIKE)
def test_canonical_tools_make_one_prompt_of_all(encoder_of: Any, template: str, framework: str) -> None:
    """Published from one framework's request it is a full hit of the others', tools and system message."""
    encoder = encoder_of(template, True)
    prompt = published(encoder, "openai")

    assert hit(encoder, framework, prompt) == len(prompt) // 4
    text = encoder.decode(memoryview(prompt).cast("I").tolist())
    assert "convert" in text
    assert "travel shop" in text


@pytest.mark.parametrize("canonical", [False, True])
@pytest.mark.parametrize("template", [TOOLS_FIRST, SYSTEM_FIRST])
def test_a_variant_of_each_is_a_hit_of_each(encoder_of: Any, template: str, canonical: bool) -> None:
    """Whatever a framework sends is published as it is, and no variant stands in the way of another."""
    encoder = encoder_of(template, canonical)
    prompts = {framework: published(encoder, framework) for framework in (*ALIKE, *OTHERS)}

    assert len(set(prompts.values())) == (4 if canonical else 10)
    for framework, prompt in prompts.items():
        assert hit(encoder, framework, *set(prompts.values())) == len(prompt) // 4


@pytest.mark.parametrize("api", [CHAT, RESPONSES, MESSAGES])
def test_the_other_apis_are_hits_too(encoder_of: Any, api: str) -> None:
    """The same system message and functions by ``/v1/responses`` and ``/v1/messages`` begin with the same tokens."""
    encoder = encoder_of(TOOLS_FIRST, True)
    chat = REQUESTS["openai"]
    system, functions = chat["messages"][0]["content"], [tool["function"] for tool in chat["tools"]]
    schemas = [{"name": f["name"], "description": f["description"], "input_schema": f["parameters"]} for f in functions]
    said = [{"role": "user", "content": "Hi"}]
    bodies = {
        CHAT: chat,
        RESPONSES: {"instructions": system, "input": "Hi", "tools": [{"type": "function", **f} for f in functions]},
        MESSAGES: {"max_tokens": 9, "system": system, "messages": said, "tools": schemas},
    }
    reader = RequestReader(["m"], encoder, SamplingDefaults(), with_preambles=True)
    raw = json.dumps({"model": "m", **bodies[api]}).encode()
    read = reader.read(api, raw, "t", lambda: Limits(1 << 15, 320, 1 << 15), lambda *_: b"")

    assert pack_u32(list(read.prompts[0])).startswith(published(encoder, "openai"))
    kept = render_prompt(encoder, preamble_of(json.loads(read.preamble), encoder), LONGEST)
    assert pack_u32(kept.tokens) == published(encoder, "openai")


def test_a_framework_that_says_more_is_no_hit(encoder_of: Any) -> None:
    """Functions that differ in what they say are different prompts, in canonical form, too."""
    encoder = encoder_of(TOOLS_FIRST, True)
    assert [hit(encoder, framework, published(encoder, "openai")) for framework in OTHERS] == [0, 0, 0]


@pytest.mark.parametrize("framework", [*ALIKE, "llamaindex", "smolagents"])
def test_the_system_message_alone_is_shared_up_to_the_tools(encoder_of: Any, framework: str) -> None:
    """Where tools stand behind it: whatever tools a framework sends, none included, the message is a hit."""
    encoder = encoder_of(SYSTEM_FIRST, False)
    prompt = published(encoder, framework, any_tools=True)

    assert encoder.decode(memoryview(prompt).cast("I").tolist()).endswith("before you answer.")
    assert {hit(encoder, other, prompt) for other in (*ALIKE, "llamaindex", "smolagents")} == {len(prompt) // 4}
    without = {key: value for key, value in REQUESTS[framework].items() if key != "tools"}
    tokens = chat_tokens(validated(ChatBody, without), encoder, "t")
    assert pack_u32(tokens).startswith(prompt)


def test_tools_behind_the_conversation_are_not_published(encoder_of: Any) -> None:
    """Up to where the conversation begins, which is in front of them; and a note says so."""
    encoder = encoder_of(TOOLS_LAST, False)
    rendered = render_prompt(encoder, preamble_of(REQUESTS["openai"], encoder), LONGEST)

    assert encoder.decode(rendered.tokens).endswith("before you answer.")
    assert any("behind the conversation" in note for note in rendered.notes)
    assert {hit(encoder, framework, pack_u32(rendered.tokens)) for framework in ALIKE} == {len(rendered.tokens)}


def test_a_template_that_writes_tools_first_is_told_of(encoder_of: Any) -> None:
    """Published without tools, the message is no hit of chats with tools."""
    rendered = render_prompt(
        encoder_of(TOOLS_FIRST, False),
        preamble_of(REQUESTS["openai"], encoder_of(TOOLS_FIRST, False), any_tools=True),
        LONGEST,
    )
    assert rendered.notes == ("chats with tools begin otherwise in this model's template: they share nothing",)


def test_answers_are_held_to_the_schemas_that_were_sent(encoder_of: Any) -> None:
    """Only the template sees the canonical form: the request keeps its own."""
    body = validated(ChatBody, REQUESTS["openai_agents"])
    chat_tokens(body, encoder_of(TOOLS_FIRST, True), "t")
    assert body.tools == REQUESTS["openai_agents"]["tools"]
