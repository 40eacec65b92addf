"""The configuration loader: precedence, and complaints that name the key and its source."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire_services.config.loader import ConfigError, load_config, load_tenants
from quire_services.config.settings import Config, PublishedPrompt, Tenant

FULL = """
[serve]
engines = 2
[kvstore]
blocks = 100
[gateway]
port = 8100
[[tenants]]
name = "acme"
keys = ["k1", "k2"]
[[published]]
file = "prompts/agent.txt"
"""


def _written(folder: Path, text: str) -> dict[str, str]:
    file = folder / "quire.toml"
    file.write_text(text)
    return {"config": str(file)}


def test_defaults_need_no_source() -> None:
    """Without flags, environment and file the defaults hold."""
    assert load_config({}, {}) == Config()


def test_flags_beat_environment_beats_file(tmp_path: Path) -> None:
    """The three sources are taken in this order, each for the keys it names."""
    flags = {**_written(tmp_path, FULL), "gateway.port": "8300"}
    config = load_config(flags, {"QUIRE_GATEWAY_PORT": "8200", "QUIRE_KVSTORE_BLOCKS": "200", "HOME": "/root"})

    assert (config.gateway.port, config.kvstore.blocks, config.serve.engines) == (8300, 200, 2)


def test_an_empty_variable_sets_nothing_but_a_text() -> None:
    """Compose files pass on what is not set as nothing: numbers and choices keep their value, a text may be empty."""
    config = load_config(
        {}, {"QUIRE_KVSTORE_BLOCKS": "", "QUIRE_ENGINE_ATTENTION": "", "QUIRE_GATEWAY_METRICS_NETWORKS": ""}
    )

    assert (config.kvstore.blocks, config.engine.attention) == (Config().kvstore.blocks, Config().engine.attention)
    assert config.gateway.metrics_networks == ""


def test_file_is_found_through_the_environment(tmp_path: Path) -> None:
    """QUIRE_CONFIG names the file where no flag does."""
    named = _written(tmp_path, FULL)["config"]

    assert load_config({}, {"QUIRE_CONFIG": named}).serve.engines == 2


def test_tables_become_values(tmp_path: Path) -> None:
    """Tenants and published prompts are read; paths are relative to the file, ids default to the file's stem."""
    config = load_config(_written(tmp_path, FULL), {})

    assert config.tenants == (Tenant("acme", ("k1", "k2")),)
    assert config.published == (PublishedPrompt(tmp_path / "prompts/agent.txt", "public", "agent"),)
    assert load_tenants(tmp_path / "quire.toml") == config.tenants


@pytest.mark.parametrize(
    ("text", "environ", "flags", "words"),
    [
        ("[kvstore]\nblcks = 1", {}, {}, ["kvstore.blcks", "quire.toml", "did you mean blocks?"]),
        ("[kvstor]\nblocks = 1", {}, {}, ["kvstor", "quire.toml", "did you mean kvstore?"]),
        ("kvstore = 3", {}, {}, ["kvstore", "section", "quire.toml"]),
        ("[kvstore]\nblocks = '5x'", {}, {}, ["kvstore.blocks", "'5x'", "whole number", "quire.toml"]),
        ("[kvstore]\nblocks = true", {}, {}, ["kvstore.blocks", "whole number"]),
        ("[serve]\nmodel = 4", {}, {}, ["serve.model", "string"]),
        ("[kvstore", {}, {}, ["quire.toml", "TOML"]),
        ("", {"QUIRE_KVSTORE_BLOCKS": "-1"}, {}, ["kvstore.blocks", "less than 0", "QUIRE_KVSTORE_BLOCKS"]),
        ("", {"QUIRE_KVSTORE_COLOUR": "x"}, {}, ["kvstore.colour", "QUIRE_KVSTORE_COLOUR"]),
        ("", {"QUIRE_PORT": "1"}, {}, ["QUIRE_PORT"]),
        ("", {}, {"gateway.port": "70000"}, ["gateway.port", "more than 65535", "--port"]),
        ("", {}, {"kvstore.dtype": "int8"}, ["kvstore.dtype", "float32", "--dtype"]),
        ("", {}, {"kvstore.kv_cache_dtype": "fp8_e5m2"}, ["kvstore.kv_cache_dtype", "fp8_e4m3", "--kv-cache-dtype"]),
        ("[[tenants]]\nname='a'", {}, {}, ["tenants.keys", "missing", "number 1"]),
        ("[[tenants]]\nname='a'\nkeys=['x']\ncolor='red'", {}, {}, ["tenants.color", "number 1"]),
        ("[[tenants]]\nname='a'\nkeys=[]", {}, {}, ["tenants.keys", "tenant a"]),
        ("[[tenants]]\nname='a b'\nkeys=['x']", {}, {}, ["tenants.name", "'a b'"]),
        ("[[tenants]]\nname='a'\nkeys=['x']\n[[tenants]]\nname='a'\nkeys=['y']", {}, {}, ["tenants.name", "twice"]),
        ("[[published]]\nfile='a.txt'\ndomain='(group)'", {}, {}, ["published.domain", "'(group)'"]),
        ("[[published]]\nfile='a.txt'\n[[published]]\nfile='b/a.txt'", {}, {}, ["published.id", "twice"]),
    ],
)
def test_mistakes_name_key_and_source(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, str], words: list[str]
) -> None:
    """Every mistake is one line that says which key is wrong and where it was written."""
    with pytest.raises(ConfigError) as caught:
        load_config({**_written(tmp_path, text), **flags}, environ)

    message = str(caught.value)
    assert "\n" not in message
    assert [word for word in words if word not in message] == []


SIZED = "[kvstore]\nblocks = 100\n"


@pytest.mark.parametrize(
    ("text", "environ", "flags", "size"),
    [
        ("", {}, {}, ("blocks", 0, 0, 0)),
        (SIZED, {}, {"kvstore.kv_gib": "2"}, ("kv_gib", 0, 2, 0)),
        (SIZED, {"QUIRE_KVSTORE_KV_FRACTION": "0.5"}, {}, ("kv_fraction", 0, 0, 0.5)),
        ("[kvstore]\nkv_gib = 1.5", {"QUIRE_KVSTORE_BLOCKS": "7"}, {}, ("blocks", 7, 0, 0)),
        ("[kvstore]\nkv_gib = 1.5", {}, {"kvstore.kv_gib": "0"}, ("blocks", 0, 0, 0)),
        (SIZED + "kv_gib = 0", {}, {}, ("blocks", 100, 0, 0)),
    ],
)
def test_the_strongest_source_says_the_size_of_the_pool(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, str], size: tuple[str, int, float, float]
) -> None:
    """Whichever of the three ways it takes; what weaker sources say is forgotten, and 0 says nothing."""
    pool = load_config({**_written(tmp_path, text), **flags}, environ).kvstore
    assert (pool.sized_by, pool.blocks, pool.kv_gib, pool.kv_fraction) == size


@pytest.mark.parametrize(
    ("text", "environ", "flags", "words"),
    [
        ("", {}, {"kvstore.blocks": "9", "kvstore.kv_gib": "1"}, ["flag --blocks", "flag --kv-gib", "one size"]),
        (SIZED + "kv_fraction = 0.5", {}, {}, ["kvstore.blocks", "kvstore.kv_fraction", "quire.toml", "one size"]),
        ("", {}, {"kvstore.kv_fraction": "1.5"}, ["kvstore.kv_fraction", "more than 1", "--kv-fraction"]),
        ("", {}, {"kvstore.kv_gib": "nan"}, ["kvstore.kv_gib", "less than 0", "--kv-gib"]),
    ],
)
def test_two_sizes_in_one_source_are_refused(
    tmp_path: Path, text: str, environ: dict[str, str], flags: dict[str, str], words: list[str]
) -> None:
    """In one line that names both; so is a share that is none."""
    test_mistakes_name_key_and_source(tmp_path, text, environ, flags, words)


def test_a_shared_key_is_refused_without_printing_it(tmp_path: Path) -> None:
    """One API key must name one tenant; the complaint does not show the key."""
    text = "[[tenants]]\nname='a'\nkeys=['secret-7']\n[[tenants]]\nname='b'\nkeys=['secret-7']"
    with pytest.raises(ConfigError, match="tenants a and b") as caught:
        load_config(_written(tmp_path, text), {})

    assert "secret-7" not in str(caught.value)


def test_a_missing_file_is_one_line(tmp_path: Path) -> None:
    """A configuration file that is not there is named."""
    with pytest.raises(ConfigError, match=r"gone\.toml: No such file"):
        load_config({"config": str(tmp_path / "gone.toml")}, {})
