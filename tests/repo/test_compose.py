"""compose.yaml and its additions: what strangers start, as which user, what is shared and reached."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from quire_services.config.loader import load_config, load_tenants
from tests.support.repository import ROOT

ONCE, LASTING = {"demo-model", "prepare"}, {"kvstore", "engine", "gateway"}
OURS = ONCE | LASTING


def compose(name: str) -> dict[str, Any]:
    """A compose file, anchors and merges resolved."""
    found: dict[str, Any] = yaml.safe_load((ROOT / name).read_text())
    return found


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services."""
    found: dict[str, dict[str, Any]] = compose("compose.yaml")["services"]
    return found


def stages() -> dict[str, str]:
    """The stages of the Dockerfile, by name."""
    parts = (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]
    return {part.splitlines()[0].split()[-1]: part for part in parts}


def test_the_stack_needs_no_profile_and_no_variable(services: dict[str, dict[str, Any]]) -> None:
    """What runs on a CPU is started by `up` alone, and every variable has a value where it is not set."""
    assert {name for name, service in services.items() if "profiles" not in service} == OURS
    for name in ("compose.yaml", "compose.gpu.yaml", "compose.hub.yaml", "compose.build.yaml"):
        variables = re.findall(r"\$\{[^}]*\}?", (ROOT / name).read_text())
        assert [variable for variable in variables if not re.match(r"\$\{[A-Z_]+:?-", variable)] == []


def test_every_variable_is_explained(services: dict[str, dict[str, Any]]) -> None:
    """.env.example names what the stack reads, and nothing else; images alone are named in the compose files."""
    files = ("compose.yaml", "compose.gpu.yaml", "compose.hub.yaml")
    read = set(re.findall(r"\$\{([A-Z_]+)", "".join((ROOT / name).read_text() for name in files)))
    explained = set(re.findall(r"^# ([A-Z_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))

    assert {name for name in read if not name.endswith("_IMAGE")} - {"ALLOWED_HOSTS"} == explained - {"COMPOSE_FILE"}


def test_no_namespace_is_shared(services: dict[str, dict[str, Any]]) -> None:
    """A container that joins another's namespaces does not come back with it: what is shared is volumes."""
    for name in ("compose.yaml", "compose.gpu.yaml", "compose.hub.yaml"):
        for service in compose(name)["services"].values():
            assert not {"ipc", "pid", "network_mode", "shm_size"} & set(service)
    for name in ("kvstore", "engine"):
        assert {"run:/run/quire", "shm:/dev/shm"} <= set(services[name]["volumes"])
    assert compose("compose.yaml")["volumes"]["shm"]["driver_opts"]["type"] == "tmpfs"


def test_the_gateway_alone_sees_keys(services: dict[str, dict[str, Any]]) -> None:
    """The folder of keys is mounted there and nowhere else, and lies outside of what the others see."""
    seeing = {name for name, service in services.items() if any("KEYS_DIR" in v for v in service.get("volumes", []))}

    assert seeing == {"gateway"}
    assert load_config({"config": str(ROOT / "deploy/compose/config/quire.toml")}, {}).tenants == ()
    assert load_tenants(ROOT / "deploy/compose/keys/keys.toml") == ()


def test_what_is_not_set_leaves_the_file_in_force(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Variables that are not set reach the processes as nothing, and quire.toml holds; those that are set win."""
    file = tmp_path / "quire.toml"
    file.write_text("[kvstore]\nblocks = 77\n[engine]\nthreads = 3\n[gateway]\nserved_model_name = 'name'\n")
    settings = {k: v for k, v in services["gateway"]["environment"].items() if k.startswith("QUIRE_")}
    bare = {name: re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", value) for name, value in settings.items()}
    bare["QUIRE_CONFIG"] = str(file)

    config = load_config({}, bare)
    assert (config.kvstore.blocks, config.engine.threads, config.serve.engines) == (77, 3, 2)
    assert config.gateway.published_host == "127.0.0.1"
    assert load_config({}, bare | {"QUIRE_KVSTORE_BLOCKS": "88"}).kvstore.blocks == 88


def test_every_container_is_confined(services: dict[str, dict[str, Any]]) -> None:
    """One uid that is not root for all, a read-only root, no capabilities, no new privileges, nothing privileged."""
    assert {services[name]["user"] for name in OURS} == {"${QUIRE_UID:-10001}:${QUIRE_UID:-10001}"}
    for name in OURS:
        service = services[name]
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add"} & set(service)


def test_every_lasting_service_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    """Whatever keeps running says whether it works; what ends is not started again."""
    assert {name for name in OURS if "healthcheck" in services[name]} == LASTING
    assert {name for name in OURS if services[name]["restart"] == "no"} == ONCE


def test_ports_are_published_on_the_loopback(services: dict[str, dict[str, Any]]) -> None:
    """The gateway is published where BIND says, which the gateway knows and by default is 127.0.0.1; the rest there."""
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert ports.pop("gateway") == ["${BIND:-127.0.0.1}:${PORT:-8000}:8000"]
    assert services["gateway"]["environment"]["QUIRE_GATEWAY_PUBLISHED_HOST"] == "${BIND:-127.0.0.1}"
    assert set(ports) == {"prometheus", "grafana"}
    assert all(port.startswith("127.0.0.1:") for listed in ports.values() for port in listed)


def test_metrics_are_read_from_a_network_that_nobody_enters(services: dict[str, dict[str, Any]]) -> None:
    """The gateway tells what it counts to one internal network, in which there is no one but Prometheus."""
    network = compose("compose.yaml")["networks"]["metrics"]

    assert network["internal"] is True
    subnet = network["ipam"]["config"][0]["subnet"]
    assert services["gateway"]["environment"]["QUIRE_GATEWAY_METRICS_NETWORKS"].endswith(f", {subnet}")
    inside = {name for name, service in services.items() if "metrics" in service.get("networks", [])}
    assert inside == {"gateway", "prometheus"}


def test_the_gateway_stops_before_engines_and_they_before_the_kvstore(services: dict[str, dict[str, Any]]) -> None:
    """Compose stops what depends on others first: that is the order of a drain, and each has time for it."""
    assert "engine" in services["gateway"]["depends_on"]
    assert "kvstore" in services["engine"]["depends_on"]
    for name in LASTING:
        config = load_config({}, {})
        assert float(services[name]["stop_grace_period"].rstrip("s")) > config.gateway.drain_s + 2


def test_engines_can_be_scaled(services: dict[str, dict[str, Any]]) -> None:
    """Nothing about the engine is unique to one container: no fixed name, no port."""
    assert not {"container_name", "hostname", "ports"} & set(services["engine"])


def test_a_gpu_is_the_same_for_kvstore_and_engines() -> None:
    """The addition reserves one device, for both; what Triton compiles is kept where it may be executed."""
    services = compose("compose.gpu.yaml")["services"]
    devices = {name: service["deploy"] for name, service in services.items() if "deploy" in service}

    assert set(devices) == {"kvstore", "engine"}
    assert devices["kvstore"] == devices["engine"]
    assert "cache:/var/cache/quire" in services["engine"]["volumes"]
    assert "TRITON_CACHE_DIR=/var/cache/quire/triton" in stages()["base"]


def test_one_process_fetches_a_model_of_the_hub(services: dict[str, dict[str, Any]]) -> None:
    """The others read its volume and neither write it nor have the token; each of them is told the same name."""
    named = compose("compose.hub.yaml")["services"]
    settings = ("QUIRE_SERVE_MODEL", "QUIRE_SERVE_REVISION", "HF_HOME")
    told = [[named[name]["environment"][key] for key in settings] for name in ("prepare", "engine", "gateway")]

    assert told[0] == told[1] == told[2]
    assert [name for name in named if "hub:/models/hub" in named[name].get("volumes", [])] == ["prepare"]
    assert [name for name in named if "HF_TOKEN" in named[name]["environment"]] == ["prepare"]
    assert "HF_HUB_OFFLINE=1" in stages()["base"]
    assert "/models/hub" in stages()["base"]


def test_all_processes_on_a_gpu_compute_in_one_type() -> None:
    """What `prepare` writes down is what the kvstore lays out and engines compute in: the checkpoint's, or DTYPE."""
    services = compose("compose.gpu.yaml")["services"]
    chosen = {name: service["environment"]["QUIRE_KVSTORE_DTYPE"] for name, service in services.items()}

    assert chosen == dict.fromkeys(("demo-model", "prepare", "kvstore", "engine"), "${DTYPE:-auto}")


def test_the_kvstore_on_a_gpu_has_what_makes_its_pool() -> None:
    """The kvstore of the GPU profile is no image without bindings: it runs from the stage that has the extra `gpu`."""
    assert {service["build"]["target"] for service in compose("compose.gpu.yaml")["services"].values()} == {"gpu"}
    assert re.search(r"requirements.py gpu [a-z ]+ >gpu", stages()["wanted"])
    assert "gcc libc6-dev" in stages()["gpu"]
    assert "Python.h" in stages()["gpu"]


def test_images_are_built_from_stages_that_exist(services: dict[str, dict[str, Any]]) -> None:
    """Every target is a stage of the Dockerfile that drops root, and none copies sources before it has its packages."""
    gpu = compose("compose.gpu.yaml")["services"].values()
    targets = {service["build"]["target"] for service in [*services.values(), *gpu] if "build" in service}

    assert targets == {"kvstore", "gateway", "quire", "gpu"}
    for target in targets:
        assert "USER ${QUIRE_UID}:${QUIRE_UID}" in stages()[target]
        assert "pip install" not in stages()[target]
        assert stages()[target].index("-packages" if target in ("kvstore", "gateway") else "--from=torch") < stages()[
            target
        ].index("--from=wheel")


def test_files_that_are_mounted_exist(services: dict[str, dict[str, Any]]) -> None:
    """Docker makes a folder of a file that is missing, so each path of the clone that is mounted is there."""
    mounts = [volume for service in services.values() for volume in service.get("volumes", [])]
    paths = {found for mount in mounts for found in re.findall(r"\./deploy/[\w./-]+", mount)}

    assert len(paths) == 6
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_prometheus_asks_the_gateway_where_it_may(services: dict[str, dict[str, Any]]) -> None:
    """By a name that the gateway has in the network of metrics alone, and answers to."""
    config = yaml.safe_load((ROOT / "deploy/compose/prometheus.yml").read_text())
    asked = config["scrape_configs"][0]["http_sd_configs"][0]["url"]
    networks = services["gateway"]["networks"]

    assert networks == {"default": {}, "metrics": {"aliases": [httpx.URL(asked).host]}}
    assert httpx.URL(asked).host in services["gateway"]["environment"]["QUIRE_GATEWAY_ALLOWED_HOSTS"].split(", ")


@pytest.mark.skipif(shutil.which("promtool") is None, reason="no promtool here")
def test_prometheus_reads_its_configuration(services: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Files that lie side by side in the container are what Prometheus accepts."""
    mounts = [volume.split(":")[:2] for volume in services["prometheus"]["volumes"] if volume.startswith("./")]
    for source, target in mounts:
        shutil.copy(ROOT / source, tmp_path / Path(target).name)
    command = ["promtool", "check", "config", tmp_path / "prometheus.yml"]
    checked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert {Path(target).parent for _, target in mounts} == {Path("/etc/prometheus")}


def test_grafana_is_given_its_source_and_dashboard(services: dict[str, dict[str, Any]]) -> None:
    """The data source is the Prometheus beside it, and the dashboard lies where the provider looks."""
    provisioning = ROOT / "deploy/grafana/provisioning"
    (source,) = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"]
    (provider,) = yaml.safe_load((provisioning / "dashboards/quire.yml").read_text())["providers"]

    assert source["url"] == "http://prometheus:9090"
    folder = provider["options"]["path"]
    assert f"./deploy/grafana/quire.json:{folder}/quire.json:ro" in services["grafana"]["volumes"]


def test_dependencies_of_an_extra_are_listed_without_the_sources() -> None:
    """What the image installs first is what the extras require, those of extras within them too, and not ourselves."""
    command = [sys.executable, "deploy/compose/image/requirements.py", "engine", "gateway"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.split("\n")

    assert {"pyzmq>=26.2", "numpy>=1.26", "torch>=2.11,<2.14", "fastapi>=0.115", "uvloop>=0.21"} <= set(listed)
    assert "quire-kv" not in "".join(listed)
