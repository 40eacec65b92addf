"""A kustomization, resolved: as much of kustomize as deploy/kubernetes uses, for machines without it.

Anything else in a kustomization fails: what is resolved here is what `kubectl kustomize` gives, and a test says so
where that is installed. Names of generated ConfigMaps get no hash.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]
KNOWN = {"apiVersion", "kind", "namespace", "labels", "resources", "configMapGenerator", "patches", "images"}
CLUSTER_WIDE = {"Namespace"}
KEYS = {"env": "name", "containers": "name", "initContainers": "name", "volumes": "name", "ports": "containerPort"}


def resolve(folder: Path) -> list[Object]:
    """All objects of a kustomization."""
    wanted = yaml.safe_load((folder / "kustomization.yaml").read_text())
    assert set(wanted) <= KNOWN, f"{folder}: {set(wanted) - KNOWN} is not resolved here"
    objects: list[Object] = []
    for name in wanted["resources"]:
        objects += resolve(folder / name) if (folder / name).is_dir() else _documents(folder / name)
    for generator in wanted.get("configMapGenerator", []):
        data = {name: (folder / name).read_text() for name in generator["files"]}
        metadata = {"name": generator["name"]}
        objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    for patch in wanted.get("patches", []):
        for one in _documents(folder / patch["path"]):
            (target,) = [other for other in objects if _identity(other) == _identity(one)]
            _merge(target, one)
    for one in objects:
        if one["kind"] not in CLUSTER_WIDE:
            one["metadata"]["namespace"] = wanted["namespace"]
        for labels in wanted.get("labels", []):
            one["metadata"].setdefault("labels", {}).update(labels["pairs"])
        for image in wanted.get("images", []):
            for container in _containers(one):
                if container["image"] == image["name"]:
                    container["image"] = image["newName"]
    return objects


def _documents(file: Path) -> list[Object]:
    return [one for one in yaml.safe_load_all(file.read_text()) if one is not None]


def _identity(one: Object) -> tuple[str, str]:
    return one["kind"], one["metadata"]["name"]


def _containers(one: Object) -> list[Object]:
    pod = one.get("spec", {}).get("template", {}).get("spec", {})
    return [*pod.get("initContainers", []), *pod.get("containers", [])]


def _merge(target: Object, patch: Object) -> None:
    """A strategic merge: maps key by key, null takes a key away, lists of named things name by name, others whole."""
    for key, value in patch.items():
        known = target.get(key)
        if value is None:
            target.pop(key, None)
        elif isinstance(value, dict) and isinstance(known, dict):
            _merge(known, value)
        elif key in KEYS and isinstance(known, list):
            for item in value:
                same = [other for other in known if other[KEYS[key]] == item[KEYS[key]]]
                if same:
                    _merge(same[0], item)
                else:
                    known.append(item)
        else:
            target[key] = value
