"""Explanations: how far a request matches what is published, the first difference, its field, and what would help."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest

from quire_kv import Groups, Member, Publication
from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.published_prompts.explanation import Explanation, domains_of, explain
from quire_services.gateway.published_prompts.preamble import preamble_of
from quire_services.gateway.published_prompts.prompt_files import PublishError
from quire_services.gateway.published_prompts.rendered_prompt import render_prompt
from quire_services.gateway.templates.chat_template import PromptEncoder
from tests.support import puppet
from tests.support.gateway import write_tokenizer

REQUESTS = {file.stem: json.loads(file.read_text()) for file in Path(__file__).parent.glob("requests/*.json")}
WALKING = (  # writes values one by one, and looks at types
    "<bos>{% for m in messages %}<|{{ m.role }}|>{{ m.content | trim }}{% endfor %}{% for t in tools or [] %}"
    "{{ t.function.name }}: {{ t.function.description }}{% for name, p in t.function.parameters.properties | items %}"
    "\n- {{ name }} ({% if p.type == 'string' %}text{% else %}{{ p.type }}{% endif %}) {{ p.title }}{% endfor %}"
    "{% endfor %}<|assistant|>"
)


@pytest.fixture(scope="module")
def encoder_of(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Encoders by template."""
    folder = tmp_path_factory.mktemp("explained")
    write_tokenizer(folder)
    config = json.loads((folder / "tokenizer_config.json").read_text())

    def make(template: str = puppet.TEMPLATE, canonical: bool = False) -> PromptEncoder:
        (folder / "tokenizer_config.json").write_text(json.dumps(config | {"chat_template": template}))
        return PromptEncoder.load(folder, canonical=canonical)

    return make


def publication(
    encoder: PromptEncoder, request: Any, identity: str = "agent", domain: str = "public", state: str = "ready"
) -> Publication:
    """A request's beginning, published."""
    tokens = render_prompt(encoder, preamble_of(request, encoder), 1 << 20).tokens
    return Publication(identity, 2, domain, pack_u32(tokens), state)


def changed(request: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The request with another value at a path."""
    out = copy.deepcopy(request)
    *way, last = [int(step) if step.isdigit() else step for step in path.replace("[", ".").replace("]", "").split(".")]
    inner: Any = out
    for step in way:
        inner = inner[step]
    inner[last] = value
    return out


def test_a_hit_is_said(encoder_of: Any) -> None:
    """Which variant, and how many tokens; nothing is wrong with it."""
    encoder = encoder_of()
    listed = [publication(encoder, REQUESTS[name], f"agent@{i:08x}") for i, name in enumerate(("autogen", "openai"))]
    found = explain(encoder, REQUESTS["openai"], listed, None)

    assert found.matched is not None
    assert found.matched == found.compared[0]
    assert (found.matched.id, found.matched.common) == ("agent", found.matched.tokens)
    assert found.matched.tokens == len(listed[1].tokens) // 4 < found.tokens
    assert (found.difference, found.advice) == (None, ())
    assert 0 < found.compared[1].common < found.compared[1].tokens


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("messages[0].content", "You are a careful agent of a toy shop."),
        ("tools[0].function.name", "get_whether"),
        ("tools[1].function.description", "Convert an amount."),
        ("tools[1].function.parameters.properties.currency.enum[1]", "GBP"),
        ("tools[0].function.parameters.properties.days.title", "Nights"),
        ("tools[1].function.strict", False),
        ("tools[1].function.parameters.required[2]", "exactly"),
    ],
)
def test_the_field_of_the_first_difference(encoder_of: Any, path: str, value: Any) -> None:
    """It is the one that differs, of a message or deep in a tool, with the text on both sides."""
    encoder, request = encoder_of(), REQUESTS["openai"]
    found = explain(encoder, changed(request, path, value), [publication(encoder, request)], None)

    assert found.matched is None
    assert found.difference is not None
    assert found.difference.field == path
    assert found.difference.token == found.compared[0].common
    assert found.difference.published != found.difference.request
    text = found.difference.before + found.difference.request
    assert json.dumps(value)[1:4] in text


@pytest.mark.parametrize("path", ["messages[0].content", "tools[0].function.parameters.properties.days.title"])
def test_a_template_that_takes_tools_apart(encoder_of: Any, path: str) -> None:
    """Values are found where they stand alone, trimmed or behind a word for their type."""
    encoder, request = encoder_of(WALKING), REQUESTS["openai"]
    theirs = publication(encoder, request)
    whole = Publication("p", 2, "public", pack_u32(encoder.encode_chat(
        request["messages"], request["tools"], None, None)), "ready")  # fmt: skip
    found = explain(encoder, changed(request, path, "Some other text"), [theirs, whole], None)

    assert found.difference is not None
    assert found.difference.field == path
    assert (found.matched is None) == path.startswith("messages")  # the tools stand behind what is published


def test_a_key_that_one_framework_adds_is_found(encoder_of: Any) -> None:
    """The difference is at that key's value, and the canonical form would remove it."""
    encoder = encoder_of()
    bare = copy.deepcopy(REQUESTS["litellm"])
    found = explain(encoder, changed(bare, "tools[0].function.strict", True), [publication(encoder, bare)], None)

    assert found.difference is not None
    assert found.difference.field == "tools[0].function.strict"
    assert any("--tools-in-prompt canonical" in one for one in found.advice)
    assert any("--from-request" in one for one in found.advice)


def test_what_differs_in_canonical_form_is_more_than_form(encoder_of: Any) -> None:
    """The advice is to say the same, or to publish a variant."""
    encoder = encoder_of(canonical=True)
    found = explain(encoder, REQUESTS["llamaindex"], [publication(encoder, REQUESTS["openai"])], None)

    assert found.difference is not None
    assert found.difference.field == "tools[0].function.description"
    assert any("more than the form" in one for one in found.advice)


def test_groups_salts_and_states(encoder_of: Any) -> None:
    """What matches to the last token and is not shared all the same says why."""
    encoder, request = encoder_of(), REQUESTS["openai"]
    listed = [publication(encoder, request, domain="research", state="pending")]

    def told(body: Any, domains: set[str] | None) -> Explanation:
        return explain(encoder, body, listed, domains)

    closed = told(request, domains_of("bob", Groups((Member("research", "ann", 1),))))
    assert closed.matched is None
    assert not closed.compared[0].open
    assert "quire group join" in closed.advice[0]
    opened = told(request, domains_of("ann", Groups((Member("research", "ann", 1),))))
    assert opened.matched
    assert "not computed yet" in opened.advice[0]
    salted = told(request | {"cache_salt": "x"}, None)
    assert salted.matched is None
    assert "cache_salt" in salted.advice[0]
    assert explain(encoder, request, [], None).advice == (
        "nothing is published; publish this request: quire prefix publish --from-request",
    )


def test_a_request_that_is_none_is_refused(encoder_of: Any) -> None:
    """With what is wrong in it."""
    with pytest.raises(PublishError, match=r"messages"):
        explain(encoder_of(), {"model": "m", "messages": 5}, [], None)
