"""What is found out of a model when it is loaded, and what its answers are read with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from quire_services.gateway.http.errors import ApiError
from quire_services.gateway.tools.declared_parser import DeclaredParser
from quire_services.gateway.tools.grammar.content_format import ContentFormat
from quire_services.gateway.tools.grammar.tool_choice import tool_choice_of
from quire_services.gateway.tools.model_answers import ModelAnswers, NoGrammar
from tests.services.gateway.tools.family_templates import HERMES, template
from tests.services.gateway.tools.samples import CALLED, TOOLS, WELL_FORMED, summary
from tests.services.gateway.tools.test_declared_parser import CALL, DIALECT
from tests.support.chat_templates import WITHOUT, encoder

HERMES_CALL = next(text for family, text, found in WELL_FORMED if family == "hermes" and found == [CALLED])


def answers(folder: Path, source: str, declared: Any = None, name: str | None = None) -> ModelAnswers:
    made = encoder(folder, source)
    return ModelAnswers.of(made.backend, made.render, (ApiError,), source, declared, name)


def test_a_model_that_calls(tmp_path: Path) -> None:
    found = answers(tmp_path, template(HERMES))
    assert (found.name, found.calls) == ("hermes", True)
    assert "<bos>" in found.specials
    parser = found.parser(TOOLS, "<|im_start|>assistant\n")
    assert summary(parser.feed(HERMES_CALL) + parser.finish()) == [CALLED]


def test_what_looks_like_a_call_is_text_where_there_are_no_tools(tmp_path: Path) -> None:
    parser = answers(tmp_path, template(HERMES)).parser(None, "<|im_start|>assistant\n<think>\n")
    assert summary(parser.feed(f"Hm.</think>{HERMES_CALL}") + parser.finish()) == ["~Hm.", HERMES_CALL]


def test_a_model_that_calls_nothing(tmp_path: Path) -> None:
    found = answers(tmp_path, WITHOUT["plain"])
    assert (found.name, found.calls) == ("none", False)
    auto = tool_choice_of("auto", TOOLS)
    assert found.grammar(auto, "") is None
    with pytest.raises(NoGrammar):
        found.grammar(tool_choice_of("required", TOOLS), "")
    assert found.grammar(tool_choice_of(None, None), "", ContentFormat("json", {})) is not None


def test_a_model_that_declares_a_dialect(tmp_path: Path) -> None:
    found = answers(tmp_path, WITHOUT["plain"], DIALECT)
    assert (found.name, found.calls) == ("response_template", True)
    parser = found.parser(TOOLS, "<|turn>model\n")
    assert isinstance(parser, DeclaredParser)
    assert summary(parser.feed(CALL) + parser.finish()) == [CALLED]


def test_calls_of_a_dialect_are_text_where_there_are_no_tools(tmp_path: Path) -> None:
    parser = answers(tmp_path, WITHOUT["plain"], DIALECT).parser(None, "<|turn>model\n")
    assert parser is not None
    assert summary(parser.feed(f"<|thought>Hm.<thought|>{CALL}") + parser.finish()) == ["~Hm.", CALL]


def test_a_dialect_that_cannot_be_read_is_none(tmp_path: Path) -> None:
    fields = DIALECT["fields"] | {"tool_calls": DIALECT["fields"]["tool_calls"] | {"open_pattern": "(?P<name>["}}
    found = answers(tmp_path, WITHOUT["plain"], DIALECT | {"fields": fields})
    assert (found.name, found.calls) == ("none", False)


def test_nothing_is_looked_for_where_there_is_nothing(tmp_path: Path) -> None:
    """All text is content then, and costs nothing more."""
    assert answers(tmp_path, WITHOUT["plain"]).parser(TOOLS, "") is None


def test_a_name_goes_before_all_else(tmp_path: Path) -> None:
    assert answers(tmp_path, template(HERMES), DIALECT, "response_template").name == "response_template"
    assert answers(tmp_path, template(HERMES), DIALECT, "qwen3_coder").name == "qwen3_coder"


def test_no_grammar_where_any_text_will_do(tmp_path: Path) -> None:
    found = answers(tmp_path, template(HERMES))
    assert found.grammar(tool_choice_of("none", TOOLS), "") is None
    opened = found.grammar(tool_choice_of("required", TOOLS), "<think>\n")
    unopened = found.grammar(tool_choice_of("required", TOOLS), "")
    assert opened is not None
    assert unopened is not None
    assert opened != unopened
    assert json.dumps("</think>") in opened.text
    assert opened.likely != opened.text
    assert found.grammar(tool_choice_of("none", TOOLS), "", ContentFormat("json", {})).likely == ""  # type: ignore[union-attr]
