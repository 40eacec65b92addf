"""Chat templates with wishes of their own: tool turns reach the model in the form that its template reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire_services.gateway.http.errors import ApiError
from tests.support.chat_templates import CLOSE, JSON, KINDS, TOOL, WITHOUT, call, calls, each, encoder, said
from tests.support.gateway import refused, write_tokenizer

USER = {"role": "user", "content": "Weather?"}
CALLS = {"role": "assistant", "content": None, "tool_calls": [call("get_weather", '{"city": "Rome"}')]}
ANSWER = {"role": "tool", "tool_call_id": CALLS["tool_calls"][0]["id"], "content": "SUNNY"}


@pytest.mark.source("ml-explore/mlx-lm#1065", "sgl-project/sglang#9898", "volcengine/verl#7664")
@pytest.mark.parametrize("kind", ["content is null", "content is absent", "text arguments", "object arguments"])
@pytest.mark.parametrize("content", [None, ""])
def test_the_call_is_in_the_prompt(tmp_path: Path, kind: str, content: str | None) -> None:
    """Whether the template asks for null, nothing or text in its place, and for arguments as text or as an object."""
    text = encoder(tmp_path, KINDS[kind]).render(said(USER, {**CALLS, "content": content}, ANSWER))
    assert text.index("get_weather") < text.index('{"city": "Rome"}') < text.index("SUNNY")


@pytest.mark.source("JetBrains/koog#1589", "agentscope-ai/agentscope#1269")
def test_text_beside_a_call_hides_no_call(tmp_path: Path) -> None:
    """A template that writes calls only where there is no content gets the content in a message of its own."""
    text = encoder(tmp_path, KINDS["content is null"]).render(said(USER, {**CALLS, "content": "I look."}, ANSWER))
    assert text.index("I look.") < text.index("get_weather") < text.index("SUNNY")


@pytest.mark.source("vllm-project/vllm#13978", "vllm-project/vllm#12937", "vllm-project/vllm#30648")
@pytest.mark.parametrize("kind", KINDS)
def test_an_empty_list_of_calls_is_none(tmp_path: Path, kind: str) -> None:
    """An old answer with ``tool_calls: []``, or null, is an answer."""
    made = encoder(tmp_path, KINDS[kind])
    plain = made.render(said(USER, {"role": "assistant", "content": "b"}, USER))
    for nothing in ([], None):
        assert made.render(said(USER, {"role": "assistant", "content": "b", "tool_calls": nothing}, USER)) == plain


@pytest.mark.source("vllm-project/vllm#9019", "ml-explore/mlx-lm#1375")
def test_ids_as_others_make_them(tmp_path: Path) -> None:
    """A template that takes ids of nine characters gets such, the same for the call and its answer."""
    text = encoder(tmp_path, KINDS["nine characters"]).render(said(USER, CALLS, ANSWER))
    identity = text.split("<|assistant|>")[1].split("<|tool|>")[0].split()[-1]
    assert len(identity) == 9
    assert text.split("SUNNY")[1].split("<|")[0].strip() == identity


@pytest.mark.source("vllm-project/vllm#43851")
@pytest.mark.parametrize("kind", ["any", "object arguments", "text arguments"])
def test_no_arguments_are_an_empty_object(tmp_path: Path, kind: str) -> None:
    """A call whose arguments are ``null`` is told as one with none."""
    turn = {"role": "assistant", "content": None, "tool_calls": [call("get_weather", "null")]}
    assert "{}" in encoder(tmp_path, KINDS[kind]).render(said(USER, turn, ANSWER)).partition("get_weather")[2]


@pytest.mark.source("ggml-org/llama.cpp#27129", "ollama/ollama#6027")
@pytest.mark.parametrize("kind", WITHOUT)
def test_tools_that_nobody_would_see_are_refused(tmp_path: Path, kind: str) -> None:
    """Instead of an answer of a model that was told of none."""
    with pytest.raises(ApiError) as found:
        encoder(tmp_path, WITHOUT[kind]).render(said(USER), [TOOL])
    assert (found.value.status, found.value.param) == (400, "tools")


@pytest.mark.source("vllm-project/vllm#11592", "found in our own trials")
@pytest.mark.parametrize("kind", ["one call", "the first call"])
def test_calls_at_once_under_a_template_of_one(tmp_path: Path, kind: str) -> None:
    """Each is told with its answer, one after the other."""
    both = {**CALLS, "tool_calls": [*CALLS["tool_calls"], call("get_time", '{"zone": "CET"}', "second")]}
    later = {"role": "tool", "tool_call_id": "second", "content": "NOON"}
    text = encoder(tmp_path, KINDS[kind]).render(said(USER, both, ANSWER, later))
    places = [text.index(word) for word in ("get_weather", "Rome", "SUNNY", "get_time", "CET", "NOON")]
    assert places == sorted(places)


@pytest.mark.source("vllm-project/vllm#9358", "google-ai-edge/LiteRT-LM#3688")
@pytest.mark.parametrize("content", ["Weather?", [{"type": "text", "text": "Weather?"}]])
def test_a_template_that_walks_over_parts(tmp_path: Path, content: Any) -> None:
    """It gets text in parts, and an answer of a tool, too."""
    parts = (
        "{% for p in m.content %}{% if p.type == 'text' %}{{ p.text }}{% endif %}{% endfor %}{% endif %}{% endfor %}"
    )
    template = calls(each(JSON)).replace(CLOSE, "<|{{ m.role }}|>" + parts)
    text = encoder(tmp_path, template).render(said({"role": "user", "content": content}, CALLS, ANSWER))
    assert text.index("Weather?") < text.index('{"city": "Rome"}') < text.index("SUNNY")


@pytest.mark.source("vllm-project/vllm#16219")
@pytest.mark.parametrize("system", ["be brief", ""])
def test_a_system_message_in_parts(tmp_path: Path, system: str) -> None:
    """A template that takes only what the system says in parts gets all in parts."""
    template = (
        "{{ messages[0].content[0].text + '|' }}{% for m in messages[1:] %}"
        "{% if m.content is string %}{{ m.content }}{% else %}{{ m.content[0].text }}{% endif %}{% endfor %}"
    )
    made = encoder(tmp_path, template)
    assert made.render(said({"role": "system", "content": system}, USER)) == f"{system}|Weather?"


@pytest.mark.source("found in our own trials")
def test_a_template_that_is_not_valid_ends_the_start(tmp_path: Path) -> None:
    """The gateway says the place in one line, and listens on no port."""
    write_tokenizer(tmp_path, template=False)
    (tmp_path / "chat_template.jinja").write_text("{% for m in messages %}\n{{ m.content }\n{% endfor %}")
    assert "chat template 'default' is not valid, line 2" in refused(tmp_path)
