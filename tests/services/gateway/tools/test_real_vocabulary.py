"""A vocabulary of the tokenizers library, read and held to with the same description: tokens in, calls out.

Special are the tokens that the vocabulary says are, for the parser and for the grammar. ``LLTokenizer`` made from the
file alone takes every added token in angle brackets for special, and no text would match it then.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import llguidance
import pytest
from tokenizers import AddedToken, Tokenizer

from quire_engine.checkpoint.token_bytes import TokenBytes
from quire_services.gateway.text.detokenizer import Detokenizer
from quire_services.gateway.tools.formats.families import FAMILIES
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of
from quire_services.gateway.tools.model_answers import AskedGrammar, ModelAnswers
from tests.services.gateway.tools.family_templates import FAMILY_TEMPLATES, renderer
from tests.services.gateway.tools.samples import CALLED, NOW, TOOLS, summary
from tests.support.gateway import write_tokenizer

SPECIAL = ("[TOOL_CALLS]", "[ARGS]", "[CALL_ID]", "<｜tool▁calls▁begin｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>")
PLAIN = ("<tool_call>", "</tool_call>", "<think>", "</think>")
ARGUMENTS = '{"city": "Rome", "days": 2}'
ANSWERS = {
    "hermes": f'Sure – ☀.\n<tool_call>\n{{"name": "weather", "arguments": {ARGUMENTS}}}\n</tool_call>',
    "mistral": f"Sure – ☀.[TOOL_CALLS]weather[ARGS]{ARGUMENTS}[TOOL_CALLS]now[ARGS]{{}}",
}


def answers(folder: Path, family: str) -> tuple[Tokenizer, ModelAnswers]:
    """A vocabulary with both kinds of added tokens, and what is known of a model of a family with it."""
    tokenizer = write_tokenizer(folder)
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in PLAIN])
    tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    source, _ = FAMILY_TEMPLATES[family][-1]
    return tokenizer, ModelAnswers.of(tokenizer, renderer(source), (Exception,))


class Vocabulary:
    """What llguidance asks of a vocabulary."""

    is_tokenizer_wrapper = True

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer, named = tokenizer, TokenBytes(tokenizer)
        self.tokens = [named.of(token) for token in range(tokenizer.get_vocab_size())]
        self.special_token_ids = [i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special]
        self.eos_token_id, self.bos_token_id = tokenizer.token_to_id("<eos>"), None

    def __call__(self, text: bytes | str) -> list[int]:
        given = text.decode() if isinstance(text, bytes) else text
        return list(self._tokenizer.encode(given, add_special_tokens=False).ids)


def matcher_of(tokenizer: Tokenizer, grammar: AskedGrammar | None) -> Any:
    assert grammar is not None
    made = llguidance.LLMatcher(llguidance.LLTokenizer(Vocabulary(tokenizer)), grammar.text)
    assert not made.is_error(), made.get_error()
    return made


@pytest.mark.parametrize("family", ANSWERS)
def test_tokens_to_calls(tmp_path: Path, family: str) -> None:
    tokenizer, found = answers(tmp_path, family)
    assert found.written.name == family
    assert set(SPECIAL) < set(found.specials)
    assert not set(PLAIN) & set(found.specials)
    tokens = tokenizer.encode(ANSWERS[family], add_special_tokens=False).ids
    spelled = {number: text for text, number in found.specials.items()}
    detokenizer, parser = Detokenizer(tokenizer, []), found.parser(TOOLS, "")
    events: list[Any] = []
    for token in tokens:
        mark = parser.mark(spelled[token]) if token in spelled else ""
        events += parser.feed_marked(mark or parser.marked(detokenizer.push(token)))
    calls = [CALLED] if family == "hermes" else [CALLED, NOW]
    assert summary(events + parser.finish()) == ["Sure – ☀.", *calls]


@pytest.mark.parametrize("family", ANSWERS)
def test_tokens_under_the_grammar(tmp_path: Path, family: str) -> None:
    tokenizer, found = answers(tmp_path, family)
    grammar = found.grammar(tool_choice_of("auto", TOOLS), "")
    matcher = matcher_of(tokenizer, grammar)
    tokens = tokenizer.encode(ANSWERS[family], add_special_tokens=False).ids
    assert matcher.try_consume_tokens(tokens) == len(tokens)
    assert matcher.is_accepting()


def test_letters_are_no_special_token(tmp_path: Path) -> None:
    """What spells a special token letter by letter is text, for the parser and under the grammar."""
    tokenizer, found = answers(tmp_path, "mistral")
    letters = [token for letter in "[TOOL_CALLS]no" for token in tokenizer.encode(letter, add_special_tokens=False).ids]
    grammar = found.grammar(tool_choice_of("auto", TOOLS), "")
    matcher = matcher_of(tokenizer, grammar)
    assert matcher.try_consume_tokens(letters) == len(letters)
    detokenizer, parser = Detokenizer(tokenizer, []), found.parser(TOOLS, "")
    events = [event for token in letters for event in parser.feed(detokenizer.push(token))]
    assert summary(events + parser.finish()) == ["[TOOL_CALLS]no"]
    assert FAMILIES["mistral"].forms[0].trigger.startswith("[TOOL_CALLS]")
