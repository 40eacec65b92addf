"""Ends of answers: every token that a model's files name ends one, and so does a stop string that spells a token."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from tokenizers import Tokenizer

from quire_proto.wire.u32 import unpack_u32
from tests.support.gateway import GatewayProcess, write_tokenizer
from tests.support.peer_engine import PeerEngine

END, OTHER = 1, 3  # <eos>, which is the tokenizer's alone: the engine knows another; and <|user|>


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[openai.OpenAI, PeerEngine, Tokenizer]]:
    """A gateway whose tokenizer names an end token that its engine does not."""
    folder: Path = tmp_path_factory.mktemp("model")
    tokenizer = write_tokenizer(folder)
    process = GatewayProcess(folder).wait()
    engine = process.engine(eos=300)
    with openai.OpenAI(base_url=process.url + "/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client, engine, tokenizer
    assert process.stop() == 0


def answer(stack: tuple[openai.OpenAI, PeerEngine, Tokenizer], answer_tokens: list[int], **how: Any) -> tuple[str, str]:
    """Text and reason of an answer of these tokens, over and over; whole or streamed, which makes no difference."""
    client, *_ = stack
    asked: dict[str, Any] = {"model": "tiny", "prompt": answer_tokens, "max_tokens": 12, "extra_body": how}
    stop = {"stop": how.pop("stop")} if "stop" in how else {}
    whole = client.completions.create(**asked, **stop).choices[0]
    pieces = [chunk.choices[0] for chunk in client.completions.create(**asked, **stop, stream=True)]
    assert ("".join(piece.text for piece in pieces), pieces[-1].finish_reason) == (whole.text, whole.finish_reason)
    return whole.text, str(whole.finish_reason)


@pytest.mark.source("vllm-project/vllm#4180", "Blaizzy/mlx-vlm#2112", "vllm-project/vllm#1183")
def test_an_end_token_that_only_the_tokenizer_names(stack: tuple[openai.OpenAI, PeerEngine, Tokenizer]) -> None:
    """It ends the answer and is no part of it, but not where ends are to be ignored."""
    words = stack[2].encode("fox").ids
    assert answer(stack, [*words, END, *words]) == ("fox", "stop")
    assert list(unpack_u32(stack[1].requests[-1].sampling.stop_token_ids)) == [END]
    text, reason = answer(stack, [*words, END], ignore_eos=True)
    assert (text[:6], reason) == ("foxfox", "length")


@pytest.mark.source("vllm-project/vllm#2123", "LostRuins/koboldcpp#791")
@pytest.mark.parametrize("skip", [True, False])
@pytest.mark.parametrize("stop", ["<|user|>", "fox<|user|>", "<|user|>\n", "<|user|><|user|>"])
def test_a_stop_string_that_spells_a_special_token(
    stack: tuple[openai.OpenAI, PeerEngine, Tokenizer], stop: str, skip: bool
) -> None:
    """Alone or among text, whether special tokens are in the text or not; it is no part of the answer."""
    tokens = stack[2].encode("the fox<|user|>").ids + stack[2].encode("<|user|>\n lazy").ids
    text, reason = answer(stack, tokens, stop=[stop], skip_special_tokens=skip)
    before = "the fox<|user|><|user|>".partition(stop.strip("\n"))[0]
    if stop.endswith("\n"):
        before = "the fox" if skip else "the fox<|user|>"
    assert (text, reason) == (before, "stop")


@pytest.mark.source("found in our own trials")
def test_a_stop_string_that_an_end_token_completes(stack: tuple[openai.OpenAI, PeerEngine, Tokenizer]) -> None:
    """What stands before the end token is cut with it."""
    tokens = [*stack[2].encode("the fox").ids, END]
    assert answer(stack, tokens, stop=["fox<eos>"]) == ("the ", "stop")
    assert answer(stack, tokens, stop=["lazy<eos>"]) == ("the fox", "stop")


@pytest.mark.source("found in our own trials")
def test_a_stop_string_over_a_token_that_has_no_text(stack: tuple[openai.OpenAI, PeerEngine, Tokenizer]) -> None:
    """Text on both sides of a special token that is not in the answer is one text."""
    tokens = [*stack[2].encode("the f").ids, OTHER, *stack[2].encode("ox the").ids]
    assert answer(stack, tokens, stop=["fox"]) == ("the ", "stop")
    assert answer(stack, tokens, stop=["fox", "x<|user|>"]) == ("the ", "stop")


@pytest.mark.source("vllm-project/vllm#4180")
def test_end_tokens_of_both_configurations(tmp_path: Path) -> None:
    """The engine ends at those of the generation configuration and at that of the model's."""
    from bench.models.tiny import make_model
    from quire_engine.model.model import load_model

    folder = make_model(tmp_path / "model")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 9]}))
    named = json.loads((folder / "config.json").read_text())["eos_token_id"]
    assert load_model(folder).eos_ids == {7, 9, named}
