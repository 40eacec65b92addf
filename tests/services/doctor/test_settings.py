"""`quire doctor` on configuration, keys, tokens and published prompts."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire_services.doctor.checks.settings import check_settings
from quire_services.doctor.report import json_report, text_report
from tests.support.doctor import found, ids, only

GOOD_KEY = "4tq-9Zc1xVwK8mRb2LpEyH7dGs"


def config(folder: Path, text: str, mode: int = 0o600) -> Path:
    """A configuration file."""
    file = folder / "quire.toml"
    file.write_text(text)
    file.chmod(mode)
    return file


def tenants(key: str) -> str:
    """A configuration of one tenant."""
    return f'[[tenants]]\nname = "acme"\nkeys = ["{key}"]\n'


def test_a_configuration_that_cannot_be_used(tmp_path: Path, run_dir: Path) -> None:
    """It is named with its mistake; one that can is no finding."""
    file = config(tmp_path, "[kvstore]\nblokcs = 3\n")
    finding = only(found(check_settings, config=file, run_dir=run_dir), "config-invalid")
    assert "blokcs" in finding.seen
    assert ids(found(check_settings, config=config(tmp_path, "[kvstore]\nblocks = 3\n"), run_dir=run_dir)) == []


@pytest.mark.parametrize("key", ["short", "aaaaaaaaaaaaaaaaaaaaaaaaa", "acme-acme-acme-acme-123"])
def test_a_weak_key_is_named_by_its_tenant_alone(tmp_path: Path, run_dir: Path, key: str) -> None:
    """The tenant and the number of the key are told, the key nowhere; a random one is no finding."""
    findings = found(check_settings, config=config(tmp_path, tenants(key)), run_dir=run_dir)
    assert "key 1 of tenant acme" in only(findings, "key-weak").seen
    for text in (json_report(findings, run_dir), text_report(findings, run_dir, 0, colours=False)):
        assert key not in text
    assert ids(found(check_settings, config=config(tmp_path, tenants(GOOD_KEY)), run_dir=run_dir)) == []


@pytest.mark.parametrize("mode", [0o644, 0o620])
def test_keys_that_others_may_read_or_change(tmp_path: Path, run_dir: Path, mode: int) -> None:
    """The fix is a chmod of that file, and after it nothing is found."""
    file = config(tmp_path, tenants(GOOD_KEY), mode)
    finding = only(found(check_settings, config=file, run_dir=run_dir), "keys-readable")
    assert finding.fix == f"chmod 600 {file}"
    file.chmod(0o600)
    assert ids(found(check_settings, config=file, run_dir=run_dir)) == []


def test_an_open_gateway_that_others_can_reach(tmp_path: Path, run_dir: Path) -> None:
    """Without keys only the loopback is no finding; with them any address is none."""
    assert ids(found(check_settings, host="0.0.0.0", run_dir=run_dir)) == ["keys-missing"]
    assert ids(found(check_settings, host="127.0.0.1", run_dir=run_dir)) == []
    file = config(tmp_path, tenants(GOOD_KEY))
    assert ids(found(check_settings, host="0.0.0.0", config=file, run_dir=run_dir)) == []


def test_an_admin_token_that_cannot_be_used(tmp_path: Path, run_dir: Path) -> None:
    """Open to others, or too short; and its word is not told."""
    file = tmp_path / "token"
    for word, mode in (("a-word-that-is-long-enough", 0o644), ("tiny", 0o600)):
        file.write_text(word)
        file.chmod(mode)
        finding = only(found(check_settings, admin_token_file=file, run_dir=run_dir), "admin-token-unusable")
        assert word not in str(finding)
    file.write_text("a-word-that-is-long-enough")
    assert ids(found(check_settings, admin_token_file=file, run_dir=run_dir)) == []


def test_a_published_prompt_that_is_not_there(tmp_path: Path, run_dir: Path) -> None:
    """Named with its id and its file, until the file is there; what it says is not told."""
    file = config(tmp_path, '[[published]]\nfile = "agents.txt"\n')
    finding = only(found(check_settings, config=file, run_dir=run_dir), "prompt-unreadable")
    assert "agents" in finding.seen
    assert finding.where == str(tmp_path / "agents.txt")
    (tmp_path / "agents.txt").write_text("a secret of ours")
    assert ids(found(check_settings, config=file, run_dir=run_dir)) == []
