"""Models by their name on the hub: fetched over its HTTP endpoints, from a stand-in on the loopback."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import constants

from bench.models.tiny import make_model
from quire_engine.checkpoint.architecture import read_config
from quire_engine.checkpoint.hub.complaints import explained
from quire_engine.checkpoint.hub.fetch import fetch
from quire_engine.checkpoint.hub.hub_model import HubModel
from quire_engine.checkpoint.refusal import ModelRefused
from tests.support.hub_server import Hub, Repository, hub_server

NAME = "org/tiny"
SMALL = {"layers": 1, "hidden": 32, "heads": 2, "kv_heads": 1, "vocab": 64, "max_len": 64}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model as its makers have it."""
    return make_model(tmp_path_factory.mktemp("hub") / "model", **SMALL)


def at(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As HF_ENDPOINT does it when the library is imported."""
    monkeypatch.setattr(constants, "ENDPOINT", url)
    template = url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


@pytest.fixture
def hub(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub that has it, an empty cache, no token."""
    with hub_server() as hub:
        hub.repositories[NAME] = Repository.of(model)
        at(hub.url, monkeypatch)
        monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
            monkeypatch.delenv(name, raising=False)
        yield hub


def fetched(name: str = NAME, revision: str = "", report: Callable[[int, int], None] | None = None) -> Path:
    """The directory of a model that is fetched."""
    model = HubModel.named(name, revision)
    assert model is not None
    return fetch(model, read_config, report or (lambda _done, _total: None), lambda _line: None)


def test_a_model_is_fetched_whole_and_once(hub: Hub, model: Path) -> None:
    """Every file that is read of it, to the byte; a second look finds it in the cache and asks nothing."""
    seen: list[tuple[int, int]] = []
    directory = fetched(report=lambda done, total: seen.append((done, total)))

    weights = (model / "model.safetensors").stat().st_size
    assert seen[-1] == (weights, weights)
    for file in model.iterdir():
        assert (directory / file.name).read_bytes() == file.read_bytes()
    hub.asked.clear()
    assert HubModel(NAME).cached() == directory
    assert hub.asked == []


def test_nothing_else_is_fetched(hub: Hub) -> None:
    """No pickled weights, no other framework's, no pictures, nothing of folders."""
    more = ("pytorch_model.bin", "tf_model.h5", "README.md", "logo.png", "original/consolidated.safetensors")
    hub.repositories[NAME].files |= dict.fromkeys(more, b"x")
    fetched()
    assert not {name.rpartition("/")[2] for name in more} & set(hub.fetched())


def test_shards_are_those_of_the_index(hub: Hub) -> None:
    """Whatever they are called; a cache that lacks one is not whole, and only that one is fetched again."""
    files = hub.repositories[NAME].files
    weights = files.pop("model.safetensors")
    names = ["part-one.safetensors", "part-two.safetensors"]
    files |= {names[0]: weights, names[1]: weights + b" "}
    files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": names[0], "b": names[1]}}).encode()
    directory = fetched()
    assert HubModel(NAME).cached() == directory

    (directory / names[1]).resolve().unlink()
    (directory / names[1]).unlink()
    assert HubModel(NAME).cached() is None
    hub.asked.clear()
    fetched()
    assert [name for name in hub.fetched() if name.endswith(".safetensors")] == [names[1]]


def test_a_revision_is_a_snapshot_of_its_own(hub: Hub) -> None:
    """A tag or a commit is fetched beside main, and found by both names."""
    repository = hub.repositories[NAME]
    main = fetched()
    repository.commits["v2"] = "2" * 40
    other = fetched(revision="v2")
    assert (main.name, other.name) == ("1" * 40, "2" * 40)
    assert HubModel(NAME, "v2").cached() == HubModel(NAME, "2" * 40).cached() == other
    with pytest.raises(ModelRefused, match=r"org/tiny has no revision 'v9'.*branches and tags"):
        fetched(revision="v9")


def test_the_token_opens_what_is_gated(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """HF_TOKEN goes with every question, and to no other place than the hub; without it the way to it is said."""
    repository = hub.repositories[NAME]
    repository.gated, repository.members, hub.tokens = True, ("hf_member",), ("hf_member", "hf_other")
    with pytest.raises(ModelRefused, match=r"gated: agree to its terms at .*/org/tiny and set HF_TOKEN .*\(401\)"):
        fetched()
    monkeypatch.setenv("HF_TOKEN", "hf_other")
    with pytest.raises(ModelRefused, match=r"gated: .* with the account of HF_TOKEN \(403\)"):
        fetched()
    monkeypatch.setenv("HF_TOKEN", "hf_member")
    hub.asked.clear()
    fetched()
    sent = {(path.startswith("/cdn/"), token) for _, path, token in hub.asked}
    assert sent == {(False, "hf_member"), (True, "")}


def test_a_wrong_token_is_named(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that has expired is told from a model that is not there."""
    monkeypatch.setenv("HF_TOKEN", "hf_old")
    with pytest.raises(ModelRefused, match=r"does not let this token.*HF_TOKEN, which is wrong, has expired"):
        fetched()


def test_what_is_not_there_may_be_private(hub: Hub) -> None:
    """The hub does not tell the two apart, and neither is claimed."""
    hub.repositories[NAME].private = True
    for name in (NAME, "org/none"):
        with pytest.raises(ModelRefused, match=rf"has no model {name} \(40[14]\): it is misspelt, or private"):
            fetched(name)


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "a LoRA or other adapter.*merge it"),
        ({"config.json": b"{}", "adapter_config.json": b"{}", "adapter_model.safetensors": b""}, "a LoRA"),
        ({"config.json": b"{}", "pytorch_model.bin": b"x"}, "no model.safetensors: only pickled weights"),
        ({"model-q4.gguf": b"x"}, "it is a GGUF model"),
        ({"config.json": b"{}"}, "no weights of it"),
        ({"README.md": b""}, "holds no config.json: not a model"),
    ],
)
def test_what_cannot_be_served_is_refused_by_its_list(hub: Hub, files: dict[str, bytes], why: str) -> None:
    """Not a byte of it is fetched."""
    hub.repositories[NAME] = Repository(files)
    with pytest.raises(ModelRefused, match=f"org/tiny.*{why}"):
        fetched()
    assert hub.fetched() == []


def test_a_configuration_that_is_not_served_costs_no_weights(hub: Hub) -> None:
    """It is read before they are fetched."""
    files = hub.repositories[NAME].files
    files["config.json"] = json.dumps({"model_type": "mamba", "layer_types": ["mamba"]}).encode()
    with pytest.raises(ModelRefused):
        fetched()
    assert "model.safetensors" not in hub.fetched()


def test_a_full_disk_is_said_before(hub: Hub) -> None:
    """What is needed and what is free, in bytes, and where."""
    hub.repositories[NAME].sizes["model.safetensors"] = 10**17
    with pytest.raises(
        ModelRefused, match=r"takes 100,000,000,000,000,000 more bytes, and [\d,]+ are free in .*HF_HOME"
    ):
        fetched()
    assert "model.safetensors" not in hub.fetched()


def test_a_disk_that_fills_up_meanwhile_is_said() -> None:
    """Whatever the library wraps it in, the line is of the disk and not of the network."""
    wrapped = RuntimeError("download failed")
    wrapped.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    assert re.fullmatch(r"the disk of .*models--org--tiny is full: make room.*", explained(wrapped, HubModel(NAME)))


def test_a_cut_connection_is_taken_up_again(hub: Hub, model: Path) -> None:
    """From where it was cut, to the same bytes."""
    hub.cut_at = 5000
    directory = fetched()
    assert hub.cut_at == 0, "nothing was cut"
    assert (directory / "model.safetensors").read_bytes() == (model / "model.safetensors").read_bytes()


def test_no_network_and_no_service_are_told_apart(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that does not answer, one that answers with an error, and one that may not be asked."""
    hub.broken = 503
    monkeypatch.setattr("huggingface_hub.utils._http._DEFAULT_RETRY_ON_STATUS_CODES", (), raising=False)
    with pytest.raises(ModelRefused, match=r"answered 503 for org/tiny.*try again later"):
        fetched()
    at("http://127.0.0.1:9", monkeypatch)
    with pytest.raises(ModelRefused, match=r"is not in the cache, and http://127.0.0.1:9 does not answer.*HTTPS_PROXY"):
        fetched()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ModelRefused, match=r"org/tiny is not in the cache .*HF_HUB_OFFLINE says to fetch nothing"):
        fetched()


@pytest.mark.parametrize("text", ["/models/qwen", "./org/name", "name", "a/b/c", "../x", "org/", "org/na me", "a/.."])
def test_what_is_no_name_on_the_hub_is_a_path(text: str) -> None:
    """Only two words with one slash between them are asked for."""
    assert HubModel.named(text) is None


def test_a_directory_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is there on the disk under that name is what is meant."""
    (tmp_path / "org" / "name").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert HubModel.named("org/name") is None
