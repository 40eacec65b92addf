"""compose.yaml: which container owns which namespace, which user it runs as, and from where it can be reached."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.support.repository import ROOT

POOL_USERS = ("kvstore", "kvstore-gpu", "engine", "engine-gpu")


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    """The services, anchors and merges resolved."""
    found: dict[str, dict[str, Any]] = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    return found


def test_the_holder_owns_the_namespaces(services: dict[str, dict[str, Any]]) -> None:
    """kvstore and engines live in the holder's ipc and pid namespaces; the gateway shares neither."""
    assert services["holder"]["ipc"] == "shareable"
    for name in POOL_USERS:
        assert (services[name]["ipc"], services[name]["pid"]) == ("service:holder", "service:holder")
    for name in ("gateway", "prepare"):
        assert not {"ipc", "pid"} & set(services[name])


def test_every_container_is_confined(services: dict[str, dict[str, Any]]) -> None:
    """One uid that is not root for all, a read-only root, no capabilities, no new privileges, nothing privileged."""
    assert {service["user"] for service in services.values()} == {"10001:10001"}
    for service in services.values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert not {"privileged", "cap_add", "network_mode"} & set(service)


def test_every_lasting_service_has_a_health_check(services: dict[str, dict[str, Any]]) -> None:
    """Whatever keeps running says whether it works."""
    without = {name for name, service in services.items() if "healthcheck" not in service}

    assert without == {"prepare"}


def test_only_the_gateway_is_published_and_only_on_loopback(services: dict[str, dict[str, Any]]) -> None:
    """One port, bound to 127.0.0.1 on the host."""
    ports = {name: service["ports"] for name, service in services.items() if "ports" in service}

    assert ports == {"gateway": ["127.0.0.1:8000:8000"]}


def test_profiles_choose_between_cpu_and_gpu(services: dict[str, dict[str, Any]]) -> None:
    """Each profile has all roles; devices are reserved under gpu alone, the same for kvstore and engine."""
    roles = {
        profile: {name.removesuffix("-gpu") for name, service in services.items() if profile in service["profiles"]}
        for profile in ("cpu", "gpu")
    }
    devices = {name: service["deploy"] for name, service in services.items() if "deploy" in service}

    assert roles["cpu"] == roles["gpu"] == {"holder", "prepare", "kvstore", "engine", "gateway"}
    assert set(devices) == {"kvstore-gpu", "engine-gpu"}
    assert devices["kvstore-gpu"] == devices["engine-gpu"]
    for name in devices:
        assert services[name]["profiles"] == ["gpu"]


def test_dependencies_stay_inside_a_profile(services: dict[str, dict[str, Any]]) -> None:
    """A service depends only on services that every one of its profiles starts."""
    for service in services.values():
        for other in service.get("depends_on", {}):
            assert set(service["profiles"]) <= set(services[other]["profiles"])


def test_engines_can_be_scaled(services: dict[str, dict[str, Any]]) -> None:
    """Nothing about the engine is unique to one container: no fixed name, no port."""
    assert not {"container_name", "hostname", "ports"} & set(services["engine"])


def test_images_are_built_from_stages_that_exist(services: dict[str, dict[str, Any]]) -> None:
    """Every target named is a stage of the Dockerfile, and every stage drops root."""
    stages = [part.splitlines()[0].split()[-1] for part in (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:]]
    bodies = dict(zip(stages, (ROOT / "Dockerfile").read_text().split("\nFROM ")[1:], strict=True))
    targets = {service["build"]["target"] for service in services.values()}

    assert targets == set(stages) - {"base"}
    assert [stage for stage in targets if "USER 10001:10001" not in bodies[stage]] == []
