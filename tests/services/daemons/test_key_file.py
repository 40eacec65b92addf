"""API keys in a file of their own, for a configuration that others read, too."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire_services.config.loader import load_config
from quire_services.daemons.gateway import configured_keys
from quire_services.process.reason import StartError

KEYS = '[[tenants]]\nname = "acme"\nkeys = ["sk-one"]\n'


def settings(folder: Path, keys: str, file: str = "") -> dict[str, str]:
    """Flags that name a file of keys and a configuration with these contents."""
    (folder / "keys.toml").write_text(keys)
    (folder / "quire.toml").write_text(file)
    return {"config": str(folder / "quire.toml"), "gateway.keys_file": str(folder / "keys.toml")}


def test_keys_come_from_their_file(tmp_path: Path) -> None:
    """Its tenants are those of the gateway; a file without any leaves it open, which only a loopback may be."""
    keys = configured_keys(load_config(settings(tmp_path, KEYS), {}))

    assert (keys.open, keys.tenant("Bearer sk-one")) == (False, "acme")
    assert configured_keys(load_config(settings(tmp_path, "# none\n"), {})).open


@pytest.mark.parametrize(
    ("keys", "file", "reason"),
    [
        (KEYS, KEYS, "choose one"),
        (KEYS + 'groups = ["research"]\n', "", "quire group join"),
        ("[[tenants]\n", "", "is not TOML"),
    ],
)
def test_what_would_be_lost_is_refused(tmp_path: Path, keys: str, file: str, reason: str) -> None:
    """Tenants in both files, groups that no kvstore would read, or a file that cannot be read: the gateway says so."""
    with pytest.raises(StartError, match=reason):
        configured_keys(load_config(settings(tmp_path, keys, file), {}))
