"""Variables that a request gives a chat template: the template reads them, or the request is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.openai.bodies import ChatBody
from quire_services.gateway.openai.chat import chat_tokens
from quire_services.gateway.templates.chat_template import PromptEncoder
from tests.support.chat_templates import encoder
from tests.support.gateway import TEMPLATE

DOCUMENTS = [{"title": "one", "text": "penguins are birds"}, {"title": "two", "text": "whales are mammals"}]
READS = {
    "each": "{% for d in documents or () %}{{ d.title }}: {{ d.text }}{% endfor %}",
    "as answers": "{% if documents or tools %}{% for t in tools %}{{ t }}{% endfor %}{{ documents }}{% endif %}",
    "all": "{% if documents is defined and documents %}{{ documents | tojson }}{% endif %}",
}


def prompt(made: PromptEncoder, **body: Any) -> str:
    """What the model reads of a request with these parameters."""
    messages = [{"role": "user", "content": "penguins are birds, whales are mammals"}]
    return made.decode(chat_tokens(ChatBody.model_validate({"model": "m", "messages": messages} | body), made, "t"))


def refusal(made: PromptEncoder, **body: Any) -> tuple[str | None, str]:
    """The parameter that a refused request is refused for, and why."""
    with pytest.raises(ApiError) as refused:
        prompt(made, **body)
    assert refused.value.status == 400
    return refused.value.param, refused.value.message


@pytest.mark.source("huggingface/transformers#33421", "vllm-project/vllm#5709")
@pytest.mark.parametrize("kind", READS)
def test_documents_are_in_the_prompt(tmp_path: Path, kind: str) -> None:
    """As the template writes them; an empty list is none."""
    made = encoder(tmp_path, READS[kind] + TEMPLATE)
    plain = prompt(made)
    text = prompt(made, documents=DOCUMENTS)
    assert text.endswith(plain)
    assert all(word in text[: -len(plain)] for document in DOCUMENTS for word in document.values())
    assert prompt(made, chat_template_kwargs={"documents": DOCUMENTS}) == text
    assert prompt(made, documents=[]) == plain


@pytest.mark.source("huggingface/transformers#33421")
@pytest.mark.parametrize(
    ("reads", "documents", "param"),
    [
        ("", DOCUMENTS, "documents"),
        (READS["each"], [DOCUMENTS[0], {"title": "two", "content": "whales are mammals"}], "documents"),
        ("{{ documents[0].text }}", DOCUMENTS, "documents"),
        ("{% if documents %}documents{% endif %}", DOCUMENTS, "documents"),
    ],
)
def test_documents_that_would_be_left_out_are_refused(tmp_path: Path, reads: str, documents: Any, param: str) -> None:
    """All of them or one, though a message mentions what they say."""
    assert refusal(encoder(tmp_path, reads + TEMPLATE), documents=documents)[0] == param


@pytest.mark.source("huggingface/transformers#37469")
def test_a_template_for_documents(tmp_path: Path) -> None:
    """One named ``rag`` is for chats with documents, and for no others."""
    named = [{"name": "default", "template": TEMPLATE}, {"name": "rag", "template": READS["all"] + "RAG" + TEMPLATE}]
    made = encoder(tmp_path, named)
    assert "penguins" in prompt(made, documents=DOCUMENTS).partition("RAG")[0]
    assert "RAG" not in prompt(made)


@pytest.mark.source("lmstudio-ai/lmstudio-bug-tracker#2195", "vllm-project/vllm#54616")
def test_an_effort_is_read_or_refused(tmp_path: Path) -> None:
    """By a template with degrees of it, by one that thinks or does not, or by none."""
    graded = encoder(tmp_path, "[{{ reasoning_effort | default('medium') }}]" + TEMPLATE)
    assert [prompt(graded, reasoning_effort=e).partition("]")[0] for e in ("low", "none", None)] == [
        "[low",
        "[none",
        "[medium",
    ]
    switch = encoder(tmp_path, "{% if enable_thinking is not defined or enable_thinking %}think{% endif %}" + TEMPLATE)
    assert [prompt(switch, reasoning_effort=effort)[:5] == "think" for effort in (None, "none")] == [True, False]
    assert refusal(switch, reasoning_effort="low")[0] == "reasoning_effort"
    for effort in ("none", "high"):
        param, message = refusal(encoder(tmp_path, TEMPLATE), reasoning_effort=effort)
        assert (param, "does not read" in message) == ("reasoning_effort", True)


@pytest.mark.source("scouzi1966/maclocal-api#34")
def test_other_variables_are_read_or_refused(tmp_path: Path) -> None:
    """One that asks for nothing may stay unread."""
    made = encoder(tmp_path, "{% macro m() %}{{ mood }}{% endmacro %}{{ m() }}" + TEMPLATE)
    assert prompt(made, chat_template_kwargs={"mood": "glad"}).startswith("glad")
    assert prompt(made, chat_template_kwargs={"enable_thinking": False}) == prompt(made)
    param, message = refusal(made, chat_template_kwargs={"mood": "glad", "enable_thinking": True})
    assert (param, "'enable_thinking'" in message) == ("chat_template_kwargs", True)
