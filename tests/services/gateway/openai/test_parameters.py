"""Every parameter that OpenAI or vLLM has is served, harmless or refused by name; the page of them is true."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import completion_create_params as plain_params
from openai.types.chat import completion_create_params as chat_params
from tokenizers import Tokenizer

from quire_proto.wire.u32 import unpack_u32
from quire_services.gateway.openai.bodies import ChatBody, CompletionBody
from quire_services.gateway.openai.parameters import CHAT, PARAMETERS, PARAMETERS_BY_NAME, PLAIN, Parameter
from quire_services.gateway.openai.parameters_page import page
from tests.services.gateway.openai import vllm_parameters
from tests.services.gateway.openai.test_errors import CHAT as CHAT_PATH
from tests.services.gateway.openai.test_errors import PLAIN as PLAIN_PATH
from tests.services.gateway.openai.test_errors import USER, chat, error_of, plain
from tests.support.gateway import GatewayProcess, write_tokenizer
from tests.support.peer_engine import PeerEngine
from tests.support.repository import ROOT

PAGE = ROOT / "docs" / "operate" / "parameters.md"
ODD = {"no": "default"}  # a value that is no parameter's default
TOOL: dict[str, Any] = {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}


def test_the_page_is_made_of_the_table() -> None:
    """``python -m quire_services.gateway.openai.parameters_page > docs/operate/parameters.md`` changes nothing."""
    assert PAGE.read_text() == page()


def test_what_is_served_is_a_field_of_its_body_and_nothing_else_is() -> None:
    """Table and bodies agree, so that nothing known is taken for an unknown field."""
    for api, body in ((CHAT, ChatBody), (PLAIN, CompletionBody)):
        assert set(body.model_fields) == {row.name for row in PARAMETERS if api in row.served}
    assert len(PARAMETERS_BY_NAME) == len(PARAMETERS)


def test_the_table_has_all_that_the_official_client_has() -> None:
    """Every parameter of the openai package, in the API that has it."""
    for api, known in (
        (CHAT, chat_params.CompletionCreateParamsStreaming.__annotations__),
        (PLAIN, plain_params.CompletionCreateParamsStreaming.__annotations__),
    ):
        assert set(known) == {row.name for row in PARAMETERS if api in row.openai}


def test_the_table_has_all_that_vllm_has() -> None:
    """Every field of its request bodies, in the API that has it, and those of earlier versions."""
    for api, alone in ((CHAT, vllm_parameters.CHAT_ALONE), (PLAIN, vllm_parameters.PLAIN_ALONE)):
        known = {row.name for row in PARAMETERS if api in row.vllm}
        assert known - set(vllm_parameters.GONE.split()) == {*vllm_parameters.BOTH.split(), *alone.split()}


@pytest.mark.parametrize("row", [row for row in PARAMETERS if not row.served], ids=lambda row: row.name)
def test_what_is_not_served_is_harmless_or_refused_by_name(
    gateway: GatewayProcess, engine: PeerEngine, row: Parameter
) -> None:
    """In both APIs: null and neutral values pass, any other is refused with the parameter's name."""
    for api, path, body in ((CHAT, CHAT_PATH, chat), (PLAIN, PLAIN_PATH, plain)):
        for value in (None, *row.neutral):
            assert gateway.http.post(path, json=body(**{row.name: value})).status_code == 200
        answer = gateway.http.post(path, json=body(**{row.name: ODD}))
        if row.harmless:
            assert answer.status_code == 200
        else:
            error = error_of(answer, 400)
            assert (error["param"], error["code"]) == (row.name, "unsupported_parameter")
            assert row.name in error["message"]
            if api in (*row.openai, *row.vllm):
                assert f'"{error["message"]}" |' in page(), "the page has the sentence"


@pytest.mark.parametrize("row", [row for row in PARAMETERS if len(row.served) == 1], ids=lambda row: row.name)
def test_what_one_api_alone_has_is_refused_in_the_other(
    gateway: GatewayProcess, engine: PeerEngine, row: Parameter
) -> None:
    """``tools`` in a plain completion would be an answer without tools."""
    path, body = (PLAIN_PATH, plain) if row.served == (CHAT,) else (CHAT_PATH, chat)
    for value in (None, False, [], *row.neutral):
        assert gateway.http.post(path, json=body(**{row.name: value})).status_code == 200
    assert error_of(gateway.http.post(path, json=body(**{row.name: ODD})), 400)["param"] == row.name


@pytest.mark.parametrize(("name", "value"), [("presence_penalty", False), ("repetition_penalty", True)])
def test_a_boolean_is_no_neutral_number(gateway: GatewayProcess, engine: PeerEngine, name: str, value: bool) -> None:
    """``false`` is not zero here, though Python says so."""
    assert error_of(gateway.http.post(CHAT_PATH, json=chat(**{name: value})), 400)["param"] == name


@pytest.mark.parametrize(
    ("tools", "param"),
    [
        ([{"x": 1}], "tools[0].type"),
        ([{"type": "function"}], "tools[0].function"),
        ([TOOL, {"type": "custom", "custom": {"name": "f"}}], "tools[1].type"),
        ([{"type": "web_search"}], "tools[0].type"),
        ([{"type": "function", "function": "f"}], "tools[0].function"),
        ([{"type": "function", "function": {}}], "tools[0].function.name"),
        ([{"type": "function", "function": {"name": ""}}], "tools[0].function.name"),
        ([{"type": "function", "function": {"name": 5}}], "tools[0].function.name"),
        ([{"type": "function", "function": {"name": "f", "description": 5}}], "tools[0].function.description"),
        ([{"type": "function", "function": {"name": "f", "parameters": []}}], "tools[0].function.parameters"),
        (["f"], "tools[0]"),
        ({"f": 1}, "tools"),
    ],
)
def test_what_is_no_tool_is_refused(gateway: GatewayProcess, engine: PeerEngine, tools: Any, param: str) -> None:
    """The place that is wrong is named, whether or not the tools would be shown to the model."""
    for choice in ("auto", "none", None):
        body = chat(tools=tools, tool_choice=choice)
        assert error_of(gateway.http.post(CHAT_PATH, json=body), 400)["param"] == param


def test_one_call_at_a_time_means_nothing_where_none_is_made(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """``parallel_tool_calls: false`` is taken without tools, and with tools that are not to be called."""
    one = {"parallel_tool_calls": False}
    assert gateway.http.post(CHAT_PATH, json=chat(**one)).status_code == 200
    assert gateway.http.post(CHAT_PATH, json=chat(**one, tools=[TOOL], tool_choice="none")).status_code == 200


def test_spaces_between_special_tokens_matter_where_there_are_some(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """Without special tokens in the answer there is nothing to put spaces between."""
    off = {"spaces_between_special_tokens": False}
    assert gateway.http.post(PLAIN_PATH, json=plain(**off)).status_code == 200
    body = plain(**off, skip_special_tokens=False)
    assert error_of(gateway.http.post(PLAIN_PATH, json=body), 400)["param"] == "spaces_between_special_tokens"


def test_each_object_of_a_stream_says_what_was_used_so_far(client: openai.OpenAI, engine: PeerEngine) -> None:
    """``continuous_usage_stats`` counts up, with ``include_usage`` as in vLLM; without it there is one count, at the
    end."""
    options: Any = {"include_usage": True, "continuous_usage_stats": True}
    ask: Any = {"model": "tiny", "messages": [USER], "max_tokens": 4, "stream": True}
    chunks = list(client.chat.completions.create(**ask, stream_options=options))
    used = [chunk.usage.completion_tokens for chunk in chunks if chunk.usage]
    assert len(used) == len(chunks)
    assert used == sorted(used)
    assert used[-1] == 4
    plain_chunks = list(client.chat.completions.create(**ask, stream_options={"include_usage": True}))
    assert [bool(chunk.usage) for chunk in plain_chunks] == [False] * (len(plain_chunks) - 1) + [True]


def test_the_prompt_comes_back_as_tokens_and_as_text(client: openai.OpenAI, engine: PeerEngine) -> None:
    """``return_token_ids`` and ``return_prompt_text``: whole, or in a stream once."""
    extra = {"return_token_ids": True, "return_prompt_text": True}
    ask: Any = {"model": "tiny", "messages": [USER], "max_tokens": 2, "extra_body": extra}
    whole = client.chat.completions.create(**ask).model_extra
    tokens = unpack_u32(engine.requests[-1].tokens).tolist()
    assert whole == {"prompt_token_ids": tokens, "prompt_text": "<bos><|user|>hi<|assistant|>"}
    told = [chunk.model_extra for chunk in client.chat.completions.create(**ask, stream=True)]
    assert told == [whole, *[{}] * (len(told) - 1)]


def test_each_choice_has_the_tokens_of_its_prompt(client: openai.OpenAI, engine: PeerEngine) -> None:
    """Of several prompts with several choices each; in a stream in the first object of a choice."""
    ask: Any = {
        "model": "tiny",
        "prompt": [[5, 6], [7]],
        "max_tokens": 2,
        "n": 2,
        "extra_body": {"return_token_ids": True},
    }
    whole = client.completions.create(**ask)
    assert [c.model_extra["prompt_token_ids"] for c in whole.choices] == [[5, 6], [5, 6], [7], [7]]
    seen: dict[int, list[Any]] = {}
    for chunk in client.completions.create(**ask, stream=True):
        for choice in chunk.choices:
            seen.setdefault(choice.index, []).append(choice.model_extra)
    assert [seen[i][0]["prompt_token_ids"] for i in range(4)] == [[5, 6], [5, 6], [7], [7]]
    assert not any("prompt_token_ids" in later for i in range(4) for later in seen[i][1:])
    told = [[token for more in seen[i] for token in more["token_ids"]] for i in range(4)]
    assert told == [c.model_extra["token_ids"] for c in whole.choices]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({"truncate_prompt_tokens": 3}, [8, 9, 10]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "left"}, [8, 9, 10]),
        ({"truncate_prompt_tokens": 3, "truncation_side": "right"}, [5, 6, 7]),
        ({"truncate_prompt_tokens": 6.0}, [5, 6, 7, 8, 9, 10]),
        ({"truncate_prompt_tokens": 100}, [5, 6, 7, 8, 9, 10]),
        ({"truncation_side": "right"}, [5, 6, 7, 8, 9, 10]),
    ],
)
def test_a_prompt_is_truncated(
    client: openai.OpenAI, engine: PeerEngine, tokenizer: Tokenizer, changes: dict[str, Any], left: list[int]
) -> None:
    """So many tokens stay, at the side that was said, and the echo is of those."""
    prompt = [5, 6, 7, 8, 9, 10]
    answer = client.completions.create(model="tiny", prompt=prompt, max_tokens=1, echo=True, extra_body=changes)
    assert unpack_u32(engine.requests[-1].tokens).tolist() == left
    assert answer.choices[0].text.startswith(tokenizer.decode(left, skip_special_tokens=False))


def test_minus_one_truncates_to_what_there_is_room_for(client: openai.OpenAI, engine: PeerEngine) -> None:
    """What is to be generated has its room, the default of completions included; nothing at all is refused."""
    for asked, left in ((100, 412), (None, 496), (-1, 511)):
        ask: Any = {"max_tokens": asked} if asked else {}
        extra = {"truncate_prompt_tokens": -1}
        client.completions.create(model="tiny", prompt=[5] * 600, extra_body=extra, **ask)
        assert len(unpack_u32(engine.requests[-1].tokens)) == left
    with pytest.raises(openai.BadRequestError, match="empty"):
        client.completions.create(model="tiny", prompt="hi", extra_body={"truncate_prompt_tokens": 0})


def test_special_tokens_are_added_as_asked(tmp_path: Path) -> None:
    """The tokenizer's own are added to plain prompts unless they are not wanted, and to chats if they are."""
    write_tokenizer(tmp_path)
    whole = json.loads((tmp_path / "tokenizer.json").read_text())
    whole["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [{"SpecialToken": {"id": "<bos>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<bos>": {"id": "<bos>", "ids": [0], "tokens": ["<bos>"]}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(whole))
    process = GatewayProcess(tmp_path).wait()
    try:
        peer = process.engine()
        for path, body, own, default in ((CHAT_PATH, chat, 1, 0), (PLAIN_PATH, plain, 0, 1)):
            for asked, added in ((True, 1), (False, 0), (None, default)):
                assert process.http.post(path, json=body(add_special_tokens=asked)).status_code == 200
                assert unpack_u32(peer.requests[-1].tokens).tolist().count(0) == own + added
    finally:
        process.stop()


def test_what_is_done_to_logits_reaches_the_engine(
    gateway: GatewayProcess, engine: PeerEngine, tokenizer: Tokenizer
) -> None:
    """Penalties, bias and tokens as they are, in both APIs and for every prompt; without them nothing is done."""
    how = {"frequency_penalty": 0.5, "presence_penalty": -1, "repetition_penalty": 1.25}
    body = {"logit_bias": {"7": -100, "5": 2.5}, "allowed_token_ids": [5, 7, 9], **how}
    for path, asked in ((CHAT_PATH, chat(**body)), (PLAIN_PATH, plain(**body, prompt=["a", "b"]))):
        engine.requests.clear()
        assert gateway.http.post(path, json=asked).status_code == 200
        for sent in (request.sampling for request in engine.requests):
            assert {name: getattr(sent, name) for name in how} == how
            assert dict(zip(unpack_u32(sent.bias_token_ids), sent.bias, strict=True)) == {7: -100, 5: 2.5}
            assert unpack_u32(sent.allowed_token_ids).tolist() == [5, 7, 9]
        assert len(engine.requests) == (1 if path == CHAT_PATH else 2)
    neutral = {"logit_bias": {}, "allowed_token_ids": [], "bad_words": [], "repetition_penalty": 1}
    assert gateway.http.post(PLAIN_PATH, json=plain(seed=1, presence_penalty=0, **neutral)).status_code == 200
    assert gateway.http.post(PLAIN_PATH, json=plain(seed=1)).status_code == 200
    assert engine.requests[-1].sampling == engine.requests[-2].sampling


def test_bad_words_are_what_they_would_be_written_with(
    gateway: GatewayProcess, engine: PeerEngine, tokenizer: Tokenizer
) -> None:
    """Alone and behind a space, where that makes other tokens and not more of them."""

    def sent(*words: str) -> list[list[int]]:
        assert gateway.http.post(PLAIN_PATH, json=plain(bad_words=words)).status_code == 200
        return [unpack_u32(word).tolist() for word in engine.requests[-1].sampling.bad_words]

    def ids(text: str) -> list[int]:
        found: list[int] = tokenizer.encode(text).ids
        return found

    assert len(ids("fox")) > len(ids(" fox"))
    assert sent("fox", " fox", "fox") == [ids("fox"), ids("fox")]
    assert len(ids("z")) < len(ids(" z"))
    assert sent("z") == [ids("z")]
    both = next(w for w in ("the", "o", "l", "f", "d", "q", "b", "m") if len(ids(w)) == len(ids(f" {w}")))
    assert sent(both) == [ids(both), ids(f" {both}")]


def test_priority_goes_to_the_engine(gateway: GatewayProcess, engine: PeerEngine) -> None:
    """In order, the default between the negative and the positive ones, none below zero on the link."""
    said: list[Any] = [-(2**30) + 1, -1, None, 0, 1, 2**30 - 1]
    for priority in said:
        assert gateway.http.post(PLAIN_PATH, json=plain(priority=priority)).status_code == 200
    found = [request.priority for request in engine.requests]
    assert found == sorted(found)
    assert found[2] == found[3]
    assert (found[0], found[-1]) == (1, 2**31 - 1)
    for wrong in (2**30, -(2**30), "0", 0.5, True):
        assert error_of(gateway.http.post(PLAIN_PATH, json=plain(priority=wrong)), 400)["param"] == "priority"
