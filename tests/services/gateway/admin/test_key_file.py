"""Keys over the admin API: digests under a version, in force at once, and in the gateway's file for its next life."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from quire_services.config.key_digests import key_digest
from quire_services.config.loader import ConfigError, load_tenants
from quire_services.config.written_keys import write_keys
from quire_services.gateway.admin.key_file import KeyFile
from quire_services.gateway.api_keys import ApiKeys
from quire_services.gateway.http.errors import ApiError
from tests.support.gateway import GatewayProcess
from tests.support.ports import free_port, listens
from tests.support.waits import wait_for


def digest(key: str) -> str:
    return key_digest(key).hex()


class Keyed:
    """A file of keys and the gateway's keys over it."""

    def __init__(self, file: Path, text: str) -> None:
        self.file = file
        file.write_text(text)
        self.api_keys = ApiKeys(load_tenants(file), file)
        self.keys = KeyFile(self.api_keys, str(file))

    def tenant(self, key: str) -> str:
        """Whose a key is, "" if it is refused."""
        try:
            return self.api_keys.tenant(f"Bearer {key}")
        except ApiError:
            return ""


@pytest.fixture
def keyed(tmp_path: Path) -> Keyed:
    return Keyed(tmp_path / "keys.toml", '[[tenants]]\nname = "old"\nkeys = ["sk-old"]\n')


def test_a_set_of_digests_replaces_all_keys_at_once(keyed: Keyed) -> None:
    """What was there before opens nothing in the answer's moment, and the file names no key."""
    row = keyed.keys.replace(5, {digest("sk-a"): "ann", digest("sk-b"): "bob"})

    assert (row["version"], row["keys"]) == (5, 2)
    assert [keyed.tenant(key) for key in ("sk-a", "sk-b", "sk-old")] == ["ann", "bob", ""]
    assert keyed.keys.row() == row
    assert "sk-" not in keyed.file.read_text()
    assert stat.S_IMODE(keyed.file.stat().st_mode) == 0o600
    assert Keyed(keyed.file, keyed.file.read_text()).tenant("sk-a") == "ann"


def test_an_older_version_is_refused(keyed: Keyed) -> None:
    """It changes nothing; the same version again is no error."""
    keyed.keys.replace(5, {digest("sk-a"): "ann"})
    with pytest.raises(ApiError, match="version 5 are in force") as refused:
        keyed.keys.replace(4, {digest("sk-b"): "bob"})

    assert (refused.value.status, refused.value.code) == (409, "older_version")
    assert [keyed.tenant(key) for key in ("sk-a", "sk-b")] == ["ann", ""]
    assert keyed.keys.replace(5, {digest("sk-a"): "ann"})["keys"] == 1


def test_without_keys_the_gateway_is_closed_not_open(keyed: Keyed) -> None:
    """Nothing is a key then, now and in the gateway's next life."""
    assert keyed.keys.replace(5, {}) == keyed.keys.row()
    again = Keyed(keyed.file, keyed.file.read_text())
    for each in (keyed, again):
        assert not each.api_keys.open
        assert each.tenant("sk-old") == ""
        with pytest.raises(ApiError):
            each.api_keys.tenant(None)


def test_a_change_by_hand_is_seen_and_overwritten(keyed: Keyed) -> None:
    """The fingerprint differs from that of the set that was put there, and the same version mends it."""
    row = keyed.keys.replace(5, {digest("sk-a"): "ann"})
    keyed.file.write_text(keyed.file.read_text() + '[[tenants]]\nname = "eve"\nkeys = ["sk-eve"]\n')
    keyed.api_keys.reload()
    assert keyed.tenant("sk-eve") == "eve"
    assert keyed.keys.row()["fingerprint"] != row["fingerprint"]

    assert keyed.keys.replace(5, {digest("sk-a"): "ann"}) == row
    assert keyed.tenant("sk-eve") == ""


def test_keys_of_the_configuration_are_not_ours_to_write(keyed: Keyed) -> None:
    """Without a file of keys there is nothing to replace."""
    with pytest.raises(ApiError, match="--keys-file"):
        KeyFile(keyed.api_keys, "").replace(1, {})


def test_a_digest_that_is_none_is_refused(tmp_path: Path) -> None:
    """Half a digest would be a key that nobody has, and that of zeros one that every request without a key bears."""
    for key in ("sha256:12", f"sha256:{'0' * 64}", f"sha256:{'AB' * 32}"):
        (tmp_path / "keys.toml").write_text(f'[[tenants]]\nname = "a"\nkeys = ["{key}"]\n')
        with pytest.raises(ConfigError, match=r"tenant a: sha256: stands before 64"):
            load_tenants(tmp_path / "keys.toml")


def test_a_key_and_its_digest_are_one_key(tmp_path: Path) -> None:
    """Two tenants cannot share it."""
    rows = [f'[[tenants]]\nname = "{n}"\nkeys = ["{k}"]\n' for n, k in (("a", "sk"), ("b", f"sha256:{digest('sk')}"))]
    (tmp_path / "keys.toml").write_text("".join(rows))
    with pytest.raises(ConfigError, match="a and b share"):
        load_tenants(tmp_path / "keys.toml")


@pytest.fixture
def admin(model: Path, tmp_path: Path) -> Iterator[tuple[GatewayProcess, httpx.Client]]:
    """A gateway whose file of keys is closed, and its operator."""
    port, file = free_port(), tmp_path / "keys.toml"
    write_keys(file, 0, {})
    gateway = GatewayProcess(model, f"--admin-port={port}", f"--keys-file={file}").wait()
    wait_for(lambda: listens(port), "the admin port is open")
    token = (gateway.run_dir / "admin.token").read_text().strip()
    headers = {"authorization": f"Bearer {token}"}
    with httpx.Client(base_url=f"http://127.0.0.1:{port}/admin", headers=headers, trust_env=False) as operator:
        yield gateway, operator
    assert gateway.stop() == 0


@pytest.mark.process
def test_a_revoked_key_is_refused_from_the_answer_on(admin: tuple[GatewayProcess, httpx.Client]) -> None:
    """Over HTTP: a key opens the API once its digest was put there, and no more once it is not."""
    gateway, operator = admin

    def status(key: str) -> int:
        return gateway.http.get("/v1/models", headers={"authorization": f"Bearer {key}"}).status_code

    def put(version: int, **keys: str) -> Any:
        rows = [{"tenant": tenant, "digest": digest(key)} for tenant, key in keys.items()]
        return operator.put("/keys", json={"version": version, "keys": rows})

    assert status("sk-a") == 401
    assert put(1, ann="sk-a").json()["keys"] == 1
    assert status("sk-a") == 200
    assert put(2, bob="sk-b").json() == operator.get("/keys").json()
    assert (status("sk-a"), status("sk-b")) == (401, 200)
    assert put(1, ann="sk-a").status_code == 409
    assert put(3, bob="").status_code == 200
    twice = [{"tenant": "a", "digest": digest("x")}] * 2
    assert operator.put("/keys", json={"version": 4, "keys": twice}).status_code == 400
    zeros = [{"tenant": "a", "digest": "0" * 64}]
    assert operator.put("/keys", json={"version": 4, "keys": zeros}).status_code == 400
