"""Where the prompt of a chat ends: an answer begins, the last message is over, or the answer goes on with it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.templates.model_templates import Ending
from tests.support.chat_templates import encoder, said

TURNS = (
    "<bos>{% for m in messages %}<|{{ m.role }}|>%s<eos>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
CONTENTS = {
    "text": "{{ m.content }}",
    "trimmed": "{{ m.content | trim }}",
    "parts": "{% if m.content is not string %}{% for p in m.content %}{{ p.text }}{% endfor %}{% endif %}",
}
USER = {"role": "user", "content": "q"}


def assistant(content: str) -> dict[str, Any]:
    return {"role": "assistant", "content": content}


@pytest.mark.parametrize("kind", CONTENTS)
def test_the_three_endings(tmp_path: Path, kind: str) -> None:
    """Whatever the template closes a message with, and however it reads its content."""
    made = encoder(tmp_path, TURNS.replace("%s", CONTENTS[kind]))
    chat = said(USER, assistant("Sure, it is"))
    begun = "<bos><|user|>q<eos><|assistant|>Sure, it is"
    assert made.render(chat, ending=Ending.WITHIN) == begun
    assert made.render(chat, ending=Ending.MESSAGE) == f"{begun}<eos>"
    assert made.render(chat) == f"{begun}<eos><|assistant|>"


@pytest.mark.parametrize("content", ["", " ", "a  \n", "<eos>", "a<eos>b", "<|user|>x", "CONTINUE_FINAL_MESSAGE_TAG"])
def test_the_beginning_of_an_answer_is_taken_as_it_stands(tmp_path: Path, content: str) -> None:
    """Spaces at its end included; special tokens that it spells are text, and close or open nothing."""
    made = encoder(tmp_path, TURNS.replace("%s", CONTENTS["text"]))
    chat = said(USER, assistant(content))
    tokens = made.encode_chat(chat, None, None, "t", ending=Ending.WITHIN)
    opened = made.encode_chat(said(USER), None, None, "t")
    assert tokens[: len(opened)] == opened
    assert made.decode(tokens[len(opened) :]) == content
    assert made.backend.token_to_id("<eos>") not in tokens[len(opened) :]


def test_a_template_that_leaves_the_message_out_is_refused(tmp_path: Path) -> None:
    """There would be nothing to go on with."""
    made = encoder(tmp_path, "<bos>{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}")
    with pytest.raises(ApiError, match="refused the messages") as refused:
        made.render(said(USER, assistant("Sure")), ending=Ending.WITHIN)
    assert (refused.value.status, refused.value.param) == (400, "messages")
