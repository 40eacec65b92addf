"""Files of API keys that other users may read: used, and warned about once."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from quire_services.config.loader import load_config
from quire_services.gateway.api_keys import ApiKeys

KEYS = '[[tenants]]\nname = "acme"\nkeys = ["sk-1"]\n'


def warnings(file: Path | None) -> list[str]:
    """The warnings of a gateway that starts with a file and reads it again."""
    with capture_logs() as lines:
        keys = ApiKeys(load_config({"config": str(file)} if file else {}, {}).tenants, file)
        at_start = len(lines)
        if file:
            file.write_text(file.read_text().replace("sk-1", "sk-2"))
            keys._reload(file)
    assert all(line["event"] != "keys_not_private" for line in lines[at_start:])
    return [line["reason"] for line in lines if line["event"] == "keys_not_private"]


@pytest.mark.source("NVIDIA/garak#927", "ovh/shai#13")
@pytest.mark.parametrize(
    ("mode", "said"),
    [(0o644, "read"), (0o640, "read"), (0o604, "read"), (0o660, "change"), (0o602, "change"), (0o600, ""), (0o400, "")],
)
def test_keys_that_others_may_read(tmp_path: Path, mode: int, said: str) -> None:
    """The warning names the file and the chmod, and comes once however often the file is read; 0600 is fine."""
    file = tmp_path / "my quire.toml"
    file.write_text(KEYS)
    file.chmod(mode)
    wanted = [f"other users may {said} this file, which holds API keys: chmod 600 '{file}'"] if said else []
    assert warnings(file) == wanted


@pytest.mark.source("NVIDIA/garak#927")
def test_a_file_without_keys_may_be_read_by_all(tmp_path: Path) -> None:
    """Only keys are a secret; keys that come later are warned about then."""
    file = tmp_path / "quire.toml"
    file.write_text("[kvstore]\nblocks = 5\n")
    file.chmod(0o644)
    assert warnings(file) == []
    assert warnings(None) == []
    keys = ApiKeys((), file)
    file.write_text(KEYS)
    with capture_logs() as lines:
        keys._reload(file)
    assert [line["event"] for line in lines] == ["keys_reloaded", "keys_not_private"]


@pytest.mark.source("NVIDIA/garak#927")
def test_keys_out_of_a_pipe(tmp_path: Path) -> None:
    """What a shell hands over as /dev/fd/N has no second reader."""
    reading, writing = os.pipe()
    os.write(writing, KEYS.encode())
    os.close(writing)
    file = Path(f"/dev/fd/{reading}")
    with capture_logs() as lines:
        ApiKeys(load_config({"config": str(file)}, {}).tenants, file)
    os.close(reading)
    assert lines == []
