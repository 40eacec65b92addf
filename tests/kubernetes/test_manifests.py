"""The manifests of deploy/kubernetes: valid by the published schemas, in agreement with themselves and the stack."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
import tomllib
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from quire_services.config import settings
from tests.support.kustomization import Object, resolve
from tests.support.repository import ROOT

FOLDER = ROOT / "deploy" / "kubernetes"
STACKS = ("base", "cpu-demo", "gpu")
OLDEST, NEWEST = "1.30", "1.37"


def objects(name: str) -> dict[str, Object]:
    """Those of a kustomization, by kind and name."""
    return {f"{one['kind']}/{one['metadata']['name']}": one for one in resolve(FOLDER / name)}


def pod(name: str) -> Object:
    """The pod of a kustomization."""
    found: Object = objects(name)["Deployment/quire"]["spec"]["template"]["spec"]
    return found


def environment(name: str) -> dict[str, str]:
    """What its stack is told."""
    return {one["name"]: one.get("value", "") for one in pod(name)["containers"][0]["env"]}


@pytest.mark.parametrize("version", [OLDEST, NEWEST])
@pytest.mark.parametrize("name", STACKS)
def test_every_object_is_valid(name: str, version: str) -> None:
    """By the strict schemas of Kubernetes' API, in which no unknown field passes."""
    found = objects(name)
    assert len(found) == 7
    for one in found.values():
        kubernetes_validate.validate(one, version, strict=True)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("spec.template.spec.containers.0.readinessProbe.httpGett", {"path": "/"}),
        ("spec.template.spec.containers.0.ports.0.containerPort", "8000"),
        ("spec.template.spec.terminationGracePeriod", 30),
        ("spec.replicas", "two"),
    ],
)
def test_a_wrong_field_is_refused(path: str, value: object) -> None:
    """A misspelt field, and one of a wrong type, do not pass the same check."""
    wrong: Any = copy.deepcopy(objects("base")["Deployment/quire"])
    at, (*steps, last) = wrong, path.split(".")
    for step in steps:
        at = at[int(step)] if step.isdigit() else at[step]
    at[last] = value
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(wrong, NEWEST, strict=True)


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="needs kubectl")
@pytest.mark.parametrize("name", [*STACKS, "inference-pool"])
def test_kubectl_resolves_the_same(name: str) -> None:
    """What is checked here is what `kubectl apply -k` would send, but for the hash in the name of a ConfigMap."""
    run = subprocess.run(["kubectl", "kustomize", str(FOLDER / name)], capture_output=True, text=True, check=True)
    told = re.sub(r"(name: quire-config)-[a-z0-9]{10}\b", r"\1", run.stdout)
    theirs = {f"{one['kind']}/{one['metadata']['name']}": _plain(one) for one in yaml.safe_load_all(told)}
    assert theirs == {key: _plain(one) for key, one in objects(name).items()}


def _plain(value: Any) -> Any:
    """Lists of named things in the order of their names: kustomize has one of its own for what a patch names."""
    if isinstance(value, dict):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, list):
        return sorted(
            (_plain(one) for one in value), key=lambda one: str(one.get("name")) if isinstance(one, dict) else ""
        )
    return value


@pytest.mark.parametrize("name", STACKS)
def test_every_setting_is_one(name: str) -> None:
    """A variable of a setting that there is not would be read by nobody; values are taken as the stack takes them."""
    for variable, value in environment(name).items():
        if variable in ("POD_IP", "QUIRE_CONFIG"):
            continue
        _, section, key = variable.lower().split("_", 2)
        default = getattr(settings.SECTIONS[section](), key)
        type(default)(value)
    assert tomllib.loads((FOLDER / "base" / "quire.toml").read_text()) == {}


@pytest.mark.parametrize("name", STACKS)
def test_a_pod_has_time_to_drain(name: str) -> None:
    """The grace is as long as what is done in it: preStop, running requests, engines, kvstore (docs/operate)."""
    spec, (container,) = pod(name), pod(name)["containers"]
    slept = float(container["lifecycle"]["preStop"]["exec"]["command"][1])
    drain = float(environment(name)["QUIRE_GATEWAY_DRAIN_S"])
    leave = settings.EngineSettings().leave_s
    needed = slept + max(10, drain + 4) + max(10, leave + 4) + 10 + 4
    assert needed <= spec["terminationGracePeriodSeconds"] <= needed + 20


@pytest.mark.parametrize("name", STACKS)
def test_containers_may_do_nothing_more(name: str) -> None:
    """No root, no capability, nothing to write but volumes; no token of the cluster's API."""
    spec = pod(name)
    assert spec["securityContext"]["runAsNonRoot"]
    assert spec["automountServiceAccountToken"] is False
    for container in [*spec.get("initContainers", []), *spec["containers"]]:
        context = container["securityContext"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["readOnlyRootFilesystem"]
        assert context["allowPrivilegeEscalation"] is False


@pytest.mark.parametrize("name", STACKS)
def test_the_pool_fits_into_shared_memory_and_that_into_the_limit(name: str) -> None:
    """/dev/shm is in memory, holds the pool, and is within what the container may use."""
    spec, (container,) = pod(name), pod(name)["containers"]
    volume = next(one for one in spec["volumes"] if one["name"] == "shm")["emptyDir"]
    shm, limit = _gib(volume["sizeLimit"]), _gib(container["resources"]["limits"]["memory"])
    assert volume["medium"] == "Memory"
    assert float(environment(name)["QUIRE_KVSTORE_KV_GIB"]) < shm < limit
    mounts = {one["name"]: one["mountPath"] for one in container["volumeMounts"]}
    assert mounts["shm"] == "/dev/shm"
    assert set(mounts) == {one["name"] for one in spec["volumes"]}


def _gib(text: str) -> float:
    assert text.endswith("Gi")
    return float(text[:-2])


def test_what_selects_pods_selects_these() -> None:
    """Services, budget, policy and the inference pool name the labels that pods have, and ports that they open."""
    found = objects("base") | objects("inference-pool")
    deployment = found["Deployment/quire"]["spec"]
    labels = deployment["template"]["metadata"]["labels"]
    ports = {one["name"]: one["containerPort"] for one in deployment["template"]["spec"]["containers"][0]["ports"]}
    selectors = [
        deployment["selector"]["matchLabels"],
        found["Service/quire"]["spec"]["selector"],
        found["Service/quire-pods"]["spec"]["selector"],
        found["PodDisruptionBudget/quire"]["spec"]["selector"]["matchLabels"],
        found["NetworkPolicy/quire"]["spec"]["podSelector"]["matchLabels"],
        found["InferencePool/quire"]["spec"]["selector"]["matchLabels"],
    ]
    assert selectors == [labels] * len(selectors)
    for service in ("Service/quire", "Service/quire-pods"):
        assert all(one["targetPort"] in ports for one in found[service]["spec"]["ports"])
    assert found["InferencePool/quire"]["spec"]["targetPorts"] == [{"number": ports["http"]}]
    events = environment("base")["QUIRE_KVSTORE_EVENTS"]
    assert events == f"tcp://$(POD_IP):{ports['events']}"
    assert ports["events-replay"] == ports["events"] + 1, "where the kvstore binds the replays"


def test_metrics_and_events_are_for_named_namespaces() -> None:
    """No rule lets everybody in, and of the two kinds of networks none is public."""
    policy = objects("base")["NetworkPolicy/quire"]["spec"]
    assert policy["policyTypes"] == ["Ingress"]
    for rule in policy["ingress"]:
        assert rule["from"]
        assert all(one["namespaceSelector"]["matchLabels"] for one in rule["from"])
    networks = environment("base")["QUIRE_GATEWAY_METRICS_NETWORKS"].split(",")
    assert all(ip_network(one.strip()).is_private for one in networks)
    assert objects("cpu-demo")["NetworkPolicy/quire"]["spec"]["ingress"] == []


def test_the_endpoint_picker_is_told_of_metrics_that_are_served() -> None:
    """The names in its configuration are on the page of metrics, and its blocks are ours."""
    text = (FOLDER / "inference-pool" / "endpoint-picker.yaml").read_text()
    named = set(re.findall(r"vllm:\w+", text))
    page = (ROOT / "docs" / "operate" / "metrics.md").read_text()
    assert len(named) >= 4
    assert all(f"`{name}`" in page for name in named)
    plugins = {one["type"]: one.get("parameters", {}) for one in yaml.safe_load(text)["plugins"]}
    assert plugins["prefix-cache-scorer"]["blockSize"] == settings.KvstoreSettings().block_size


def test_the_page_names_every_folder() -> None:
    """And no other."""
    page = (ROOT / "docs" / "operate" / "kubernetes.md").read_text()
    named = set(re.findall(r"deploy/kubernetes/([\w-]+)", page))
    assert named == {folder.name for folder in FOLDER.iterdir() if folder.is_dir()}


def test_a_kustomization_with_more_is_not_half_resolved(tmp_path: Path) -> None:
    """What the resolver does not know, it refuses."""
    (tmp_path / "kustomization.yaml").write_text("namespace: x\nresources: []\ncomponents: [y]\n")
    with pytest.raises(AssertionError, match="components"):
        resolve(tmp_path)
