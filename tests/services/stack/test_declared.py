"""A stack that follows declarations: what it is started with, and where it cannot be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from quire_services.config.declared_names import DECLARED_DIR, DECLARED_FILES
from quire_services.config.process_table import ProcessEntry
from quire_services.config.settings import Config, GatewaySettings, KvstoreSettings, ServeSettings
from quire_services.stack.declared.children import declaration_children, with_declarations
from quire_services.stack.processes import Stack
from quire_services.stack.state_tree import StateTree
from tests.support.quire_command import Quire

STORE = "valkey://10.0.0.9:6379/0"
CONFIG = Config(serve=ServeSettings(model="m", declarations=STORE), gateway=GatewaySettings(port=8000))


def test_its_keys_are_the_followers_and_its_admin_api_is_on(tmp_path: Path) -> None:
    """The file of keys lies with the kvstore's state; a port that is set, or that the running gateway has, stays."""
    found = with_declarations(CONFIG, tmp_path, None)
    assert found.gateway.keys_file == str(tmp_path / "state" / DECLARED_DIR / "keys.toml")
    assert found.gateway.admin_port > 0
    assert found.serve.node_name.endswith("-8000")
    kept = replace(CONFIG, kvstore=KvstoreSettings(state_dir=str(tmp_path / "kept")))
    assert with_declarations(kept, tmp_path, None).gateway.keys_file.startswith(str(tmp_path / "kept"))
    running = ProcessEntry(argv=["gateway", "--admin-port=7777"])
    assert with_declarations(CONFIG, tmp_path, running).gateway.admin_port == 7777
    alone = Config(gateway=GatewaySettings(port=8000))
    assert with_declarations(alone, tmp_path, None) is alone


def test_a_follower_is_a_process_of_the_stack(tmp_path: Path) -> None:
    """It is known by its settings, ends behind the gateway, and is not there where nothing is followed."""
    config = with_declarations(CONFIG, tmp_path, None)
    stack = Stack(config, tmp_path)
    assert [child.name for child in stack.one_shot] == ["prepare", "first-look"]
    assert [child.name for child in stack.lasting()] == ["kvstore", "gateway", "follower", "engine-1"]
    (follower,) = stack.followers
    assert {f"--store={STORE}", f"--node={config.serve.node_name}"} <= set(follower.argv)
    assert f"--keys-file={config.gateway.keys_file}" in stack.gateway.argv
    assert follower.settings
    plain = Stack(Config(serve=ServeSettings(model="m")), tmp_path)
    assert (plain.one_shot, plain.followers) == ([plain.prepare], [])
    assert declaration_children(Config(), tmp_path, None) is None


def test_two_sources_of_keys_are_refused(quire: Quire, tmp_path: Path) -> None:
    """Before anything is started."""
    config = tmp_path / "quire.toml"
    config.write_text('[[tenants]]\nname = "a"\nkeys = ["k"]\n')
    quire("serve", "--model=m", f"--declarations={STORE}", f"--config={config}").complains("leave [[tenants]] out")
    quire("serve", "--model=m", f"--declarations={STORE}", "--keys-file=k.toml").complains("leave gateway.keys_file")


def test_what_it_kept_goes_with_the_stack(tmp_path: Path) -> None:
    """Its files in a state directory of the stack's own, and nothing that somebody else has put there."""
    for foreign in (False, True):
        tree = StateTree(tmp_path / "state")
        word = tree.make("")
        declared = tree.path / DECLARED_DIR
        declared.mkdir()
        for name in DECLARED_FILES:
            (declared / name).write_text("")
        if foreign:
            (declared / "mine").write_text("")
        tree.remove(word)
        left = [path.name for path in declared.iterdir()] if declared.exists() else []
        assert (left, tree.path.exists()) == ((["mine"], True) if foreign else ([], False))
