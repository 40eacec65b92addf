"""Sampling that a model's makers recommend: it holds where a request leaves it to the server."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from quire_proto.gateway_link import Sampling
from quire_proto.wire.u32 import unpack_u32
from quire_services.gateway.openai.sampling_defaults import DefaultsError, SamplingDefaults, load_sampling_defaults
from tests.support.gateway import GatewayProcess, refused, write_tokenizer
from tests.support.peer_engine import PeerEngine

Stack = tuple[openai.OpenAI, PeerEngine, GatewayProcess]
SAID = {
    "temperature": 0.6, "top_k": 20, "top_p": 0.95, "min_p": 0.01, "repetition_penalty": 1.05, "max_new_tokens": 9,
}  # fmt: skip
OWN = {"temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A gateway whose model recommends sampling parameters."""
    folder: Path = tmp_path_factory.mktemp("model")
    write_tokenizer(folder)
    more = {"do_sample": False, "eos_token_id": [1, 7], "no_repeat_ngram_size": 3, "typical_p": 1.0}
    (folder / "generation_config.json").write_text(json.dumps(SAID | more))
    process = GatewayProcess(folder).wait()
    engine = process.engine(eos=300)
    with openai.OpenAI(base_url=process.url + "/v1", api_key="any", max_retries=0, timeout=20) as client:
        yield client, engine, process
    assert process.stop() == 0


def asked(stack: Stack, api: str, **how: Any) -> Sampling:
    """What the engine is asked for by a request."""
    client, engine, _ = stack
    if api == "chat":
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "hi"}], extra_body=how)
    else:
        client.completions.create(model="tiny", prompt="hi", extra_body=how)
    return engine.requests[-1].sampling


def values(how: Sampling) -> dict[str, float]:
    """Its parameters as the file calls them."""
    names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty")
    return {name: getattr(how, name) for name in names} | {"max_new_tokens": how.max_tokens}


@pytest.mark.source("vllm-project/vllm#11164", "vllm-project/vllm#11861", "Blaizzy/mlx-vlm#1331")
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_they_hold_where_a_request_says_nothing(stack: Stack, api: str) -> None:
    """All of the file's in both APIs, null being nothing said; its end tokens end answers."""
    assert values(asked(stack, api)) == pytest.approx(SAID)
    assert values(asked(stack, api, temperature=None, top_k=None)) == pytest.approx(SAID)
    assert set(unpack_u32(asked(stack, api).stop_token_ids)) >= {1, 7}


@pytest.mark.source("vllm-project/vllm#11164", "Blaizzy/mlx-vlm#1331")
@pytest.mark.parametrize("api", ["chat", "completions"])
def test_a_request_s_own_values_win(stack: Stack, api: str) -> None:
    """Each on its own, also where they are zero, off, or more than the file says."""
    found = values(asked(stack, api, **OWN, max_tokens=30))
    assert found == OWN | {"max_new_tokens": 30}
    assert values(asked(stack, api, temperature=0.0)) == pytest.approx(SAID | {"temperature": 0.0})
    assert values(asked(stack, api, top_k=-1)) == pytest.approx(SAID | {"top_k": 0})


@pytest.mark.source("vllm-project/vllm#15281")
def test_the_start_says_them_in_one_line(stack: Stack) -> None:
    """With the values, and a warning of what is not served."""
    said, warned = (line for line in stack[2].lines() if line["event"] == "sampling_defaults")
    assert {name: said[name] for name in SAID} == SAID
    assert (warned["level"], warned["not_served"]) == ("warning", "no_repeat_ngram_size")


@pytest.mark.source("vllm-project/vllm#11164")
def test_where_they_come_from(tmp_path: Path) -> None:
    """The model's file, no file, another directory's, or none by setting."""
    assert load_sampling_defaults("auto", tmp_path) == SamplingDefaults()
    (tmp_path / "generation_config.json").write_text('{"top_k": 1, "temperature": 2.5, "eos_token_id": 3}')
    found = load_sampling_defaults("auto", tmp_path)
    assert (found.top_k, found.temperature, found.max_tokens) == (1, 2.5, None)
    assert found.end_ids == {3}
    assert load_sampling_defaults("none", tmp_path) == SamplingDefaults()
    assert load_sampling_defaults(str(tmp_path), tmp_path / "other") == found


@pytest.mark.source("found in our own trials")
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"top_k": "5"}', "top_k: must be a whole number"),
        ('{"temperature": -1}', "temperature: "),
        ('{"top_p": 1.5}', "top_p: "),
        ('{"repetition_penalty": 0}', "repetition_penalty: "),
        ("[]", "object"),
        ("{", "JSON"),
    ],
)
def test_a_file_that_makes_no_sense(tmp_path: Path, text: str, reason: str) -> None:
    """One line names the file, the place and the way out."""
    (tmp_path / "generation_config.json").write_text(text)
    with pytest.raises(DefaultsError, match="generation-config none") as found:
        load_sampling_defaults("auto", tmp_path)
    assert reason in str(found.value)
    assert str(tmp_path / "generation_config.json") in str(found.value)


@pytest.mark.slow
@pytest.mark.source("found in our own trials")
def test_a_directory_without_the_file_ends_the_start(tmp_path: Path) -> None:
    """It was asked for."""
    write_tokenizer(tmp_path)
    assert "generation_config.json" in refused(tmp_path, "--generation-config", str(tmp_path))
