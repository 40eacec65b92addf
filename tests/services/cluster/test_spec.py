"""``cluster.yaml``: what it says, and where a mistake in it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from quire_services.cluster.spec import ClusterSpec, SpecError, read_spec
from quire_services.cluster.stack_order import order_of

WHOLE = """\
name: agents
nodes: 3
stack:
  model: m
  engines: 2
  kv_gib: 0.5
resources: {cpus: 4, memory_gib: 8}
"""


def spec_of(folder: Path, text: str) -> ClusterSpec:
    file = folder / "cluster.yaml"
    file.write_text(text)
    return read_spec(file)


def test_a_specification_becomes_flags_and_resources(tmp_path: Path) -> None:
    """The stack's settings are flags of ``quire serve``, resources are Ray's names and bytes."""
    (tmp_path / "m").mkdir()
    order = order_of(spec_of(tmp_path, WHOLE))
    assert {f"--model={tmp_path / 'm'}", "--engines=2", "--kv-gib=0.5", "--port=0", "--drain-s=60"} <= set(order.flags)
    assert order.resources == {"CPU": 4, "memory": 8 * 2**30}


@pytest.mark.parametrize(
    ("was", "is_now", "complaint"),
    [
        ("nodes: 3", "nodes: 0", ":2: nodes: Input should be greater than or equal to 1"),
        ("nodes: 3", "nods: 3", ":2: nods: no such field"),
        ("  engines: 2", "  engine: 2", ":5: stack.engine: no such setting of quire serve"),
        ("  engines: 2", "  engines: 0", ":5: stack.engines: serve.engines: 0 is less than 1"),
        ("  engines: 2", "  host: 10.0.0.5", ":5: stack.host: is not said here"),
        ("  model: m", "  threads: 1", ":3: stack: model: missing"),
        ("memory_gib: 8", "memory_gib: 0.25", ":7: resources.memory_gib: the pool alone has 0.5 GiB"),
        ("nodes: 3", "nodes: [3", "no YAML"),
        ("name: agents", "name: agents\nconfig: none.toml", ":2: config: cannot read the configuration"),
    ],
)
def test_a_mistake_is_named_by_line_and_field(tmp_path: Path, was: str, is_now: str, complaint: str) -> None:
    """One line says which line and field, and what is wrong with it."""
    with pytest.raises(SpecError) as error:
        spec_of(tmp_path, WHOLE.replace(was, is_now))
    assert complaint in str(error.value)
    assert "\n" not in str(error.value)


def test_the_configuration_travels_with_what_it_names(tmp_path: Path) -> None:
    """Published prompts go with it as bytes; one outside of its folder is refused."""
    (tmp_path / "sys.txt").write_text("hello")
    toml = '[[published]]\nid = "p"\nfile = "{}"\n'
    (tmp_path / "quire.toml").write_text(toml.format("sys.txt"))
    spec = spec_of(tmp_path, WHOLE + "config: quire.toml\n")
    order = order_of(spec)
    assert order.files["sys.txt"] == b"hello"
    assert order.digest == order_of(spec).digest
    (tmp_path / "sys.txt").write_text("other")
    assert order.digest != order_of(spec).digest
    (tmp_path / "quire.toml").write_text(toml.format("../sys.txt"))
    with pytest.raises(SpecError, match="must lie below"):
        order_of(spec)


def test_what_is_declared_elsewhere_is_not_said_here_too(tmp_path: Path) -> None:
    """Tenants come from the store alone; its address travels, from a file as bytes; the entrance has a known router."""
    (tmp_path / "quire.toml").write_text('[[tenants]]\nname = "a"\nkeys = ["k"]\n')
    (tmp_path / "store").write_text("valkey://:secret@10.0.0.9:6379/0\n")
    declared = WHOLE + "declarations: '@store'\nentrance: {port: 8081, router: round-robin}\n"
    with pytest.raises(SpecError, match="declarations: tenants come from there"):
        spec_of(tmp_path, declared + "config: quire.toml\n")
    with pytest.raises(SpecError, match=r"entrance\.router: is none of vllm-router"):
        spec_of(tmp_path, declared.replace("round-robin", "best"))
    with pytest.raises(SpecError, match=r"stack\.node_name: is not said here"):
        spec_of(tmp_path, declared.replace("  engines: 2", "  node_name: a"))
    order = order_of(spec_of(tmp_path, declared))
    assert order.declarations == "@declarations.address"
    assert b"secret" in order.files["declarations.address"]
    assert not any("secret" in flag for flag in order.flags)
    assert order.entrance is not None
    assert (order.entrance.port, order.entrance.router) == (8081, "round-robin")
    other = order_of(spec_of(tmp_path, declared.replace("8081", "8082")))
    assert order.digest != other.digest
