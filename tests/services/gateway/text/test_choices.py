"""Choices of models whose calls are marked by special tokens, which leave no text of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from quire_proto.gateway_link import Output
from quire_proto.wire.u32 import pack_u32
from quire_services.gateway.text.choices import Choice
from quire_services.gateway.text.detokenizer import Detokenizer
from quire_services.gateway.text.end_tokens import EndTokens
from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.parser.answer_parser import AnswerParser
from quire_services.gateway.tools.shapes.chat_messages import ChatMessages

SPECIAL = ["<eos>", "[TOOL_CALLS]", "[ARGS]", "<|channel|>", "<|message|>", "<|constrain|>", "<|call|>", "<|end|>"]
TOOLS = [{"type": "function", "function": {"name": "f"}}]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made = Tokenizer(models.BPE({byte: number for number, byte in enumerate(alphabet)}, []))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(SPECIAL)
    return made


def told(
    tokenizer: Tokenizer,
    family: str,
    tokens: Sequence[int],
    stops: Sequence[str] = (),
    ends: Sequence[str] = ("<eos>",),
) -> tuple[dict[str, Any], str | None]:
    """The message of an answer, one token at a time, and why it has ended."""
    specials = {number: token.content for number, token in tokenizer.get_added_tokens_decoder().items()}
    parser = AnswerParser(FAMILIES[family], TOOLS, None, specials.values())
    silent = frozenset(tokenizer.token_to_id(end) for end in ends)
    spelled = EndTokens(tokenizer, ()).spelled(stops)
    choice = Choice(0, Detokenizer(tokenizer, ()), stops, 0, silent, spelled, parser, specials)
    events = []
    for place, token in enumerate(tokens):
        finish = "stop" if place == len(tokens) - 1 else ""
        delta = choice.feed(Output("r", 0, pack_u32([token]), (), finish, 0))
        events += delta.events
        if delta.finish:
            break
    assert delta.stop == (stops[0] if stops else None)
    messages = ChatMessages(lambda: "id")
    return messages.message(events), messages.finish_reason(delta.finish)


def encoded(tokenizer: Tokenizer, text: str) -> list[int]:
    return list(tokenizer.encode(text).ids)


def called(arguments: str, content: str | None = None) -> dict[str, Any]:
    function = {"name": "f", "arguments": arguments}
    calls = [{"id": "id", "type": "function", "function": function}]
    return {"role": "assistant", "content": content, "refusal": None, "tool_calls": calls}


def test_special_tokens_mark_a_call(tokenizer: Tokenizer) -> None:
    tokens = encoded(tokenizer, 'Well.[TOOL_CALLS]f[ARGS]{"a": "é"}<eos>')
    assert told(tokenizer, "mistral", tokens) == (called('{"a": "é"}', "Well."), "tool_calls")


def test_text_that_spells_them_marks_none(tokenizer: Tokenizer) -> None:
    spelled = [*encoded(tokenizer, "[TOOL_"), *encoded(tokenizer, 'CALLS]f{"a": 1}'), *encoded(tokenizer, "<eos>")]
    message, finish = told(tokenizer, "mistral", spelled)
    assert (message["content"], finish) == ('[TOOL_CALLS]f{"a": 1}', "stop")


def test_half_a_character_stays_before_the_mark(tokenizer: Tokenizer) -> None:
    tokens = [*encoded(tokenizer, "é")[:1], *encoded(tokenizer, "[TOOL_CALLS]f[ARGS]{}<eos>")]
    assert told(tokenizer, "mistral", tokens) == (called("{}", "\ufffd"), "tool_calls")


@pytest.mark.parametrize("stop", ["ll.[TOOL_CALLS]", "[TOOL_CALLS]f", "[TOOL_CALLS]f[ARGS]{"])
def test_stop_strings_may_spell_marks(tokenizer: Tokenizer, stop: str) -> None:
    """Alone or among other text, and the answer is cut before them."""
    message, finish = told(tokenizer, "mistral", encoded(tokenizer, "Well.[TOOL_CALLS]f[ARGS]{}<eos>"), [stop])
    assert (message["content"], finish) == ("We" if stop.startswith("ll") else "Well.", "stop")
    assert "tool_calls" not in message


def test_a_mark_that_ends_the_answer_ends_the_call(tokenizer: Tokenizer) -> None:
    text = "<|channel|>analysis<|message|>Hm.<|end|><|channel|>commentary to=functions.f <|constrain|>json<|message|>"
    tokens = encoded(tokenizer, text + '{"a": 1}<|call|>')
    message, finish = told(tokenizer, "harmony", tokens, ends=("<eos>", "<|call|>"))
    assert (message, finish) == (called('{"a": 1}') | {"reasoning_content": "Hm."}, "tool_calls")
