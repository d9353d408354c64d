"""What ``kubectl kustomize`` makes of a folder, for the few fields that deploy/ uses.

Kubectl is not everywhere where tests run. This is small because it knows little: a field that it
does not know is an error, and where there is a kubectl, test_deploy.py compares the two.

Invariant: names of generated ConfigMaps are as written, without the hash that kubectl appends.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

Object = dict[str, Any]

FILE = "kustomization.yaml"
KNOWN = {
    *("apiVersion", "kind", "namespace", "resources", "components"),
    *("configMapGenerator", "patches", "images"),
}
# By which key two lists of a strategic merge are matched; lists of other names are replaced.
MERGE_KEYS = {
    "containers": "name",
    "initContainers": "name",
    "env": "name",
    "volumes": "name",
    "volumeMounts": "mountPath",
}


def read(path: Path) -> list[Object]:
    """The objects of a file."""
    return [document for document in yaml.safe_load_all(path.read_text()) if document]


def kustomization(folder: Path) -> Object:
    """Raises ValueError for what this module does not know."""
    (told,) = read(folder / FILE)
    if unknown := told.keys() - KNOWN:
        raise ValueError(f"{folder / FILE}: {sorted(unknown)} are not known here")
    return told


def files_named(folder: Path) -> set[Path]:
    """Every file and folder that a kustomization names."""
    told = kustomization(folder)
    names = [*told.get("resources", []), *told.get("components", [])]
    names += [patch["path"] for patch in told.get("patches", [])]
    names += [name for made in told.get("configMapGenerator", []) for name in made.get("files", [])]
    return {(folder / name).resolve() for name in names}


def render(folder: Path) -> list[Object]:
    """The objects that a kustomization stands for."""
    objects: list[Object] = []
    _add(objects, folder)
    return objects


def _add(objects: list[Object], folder: Path) -> None:
    """Does to the objects what a kustomization or a component says."""
    told = kustomization(folder)
    for name in told.get("resources", []):
        path = folder / name
        objects += render(path) if path.is_dir() else read(path)
    for name in told.get("components", []):
        _add(objects, folder / name)
    for made in told.get("configMapGenerator", []):
        _generate(objects, folder, made)
    for patch in told.get("patches", []):
        (change,) = read(folder / patch["path"])
        target = _find(objects, change["kind"], change["metadata"]["name"])
        target |= merged(target, change)
    for item in objects:
        if "namespace" in told and item["kind"] != "Namespace":
            item["metadata"]["namespace"] = told["namespace"]
    for image in told.get("images", []):
        for container in containers(objects):
            name = container["image"].rpartition(":")[0]
            if name == image["name"]:
                container["image"] = f"{image['newName']}:{image['newTag']}"


def _find(objects: list[Object], kind: str, name: str) -> Object:
    (found,) = (o for o in objects if o["kind"] == kind and o["metadata"]["name"] == name)
    return found


def _generate(objects: list[Object], folder: Path, made: Object) -> None:
    data = dict(literal.split("=", 1) for literal in made.get("literals", []))
    data |= {name: (folder / name).read_text() for name in made.get("files", [])}
    if made.get("behavior") == "merge":
        _find(objects, "ConfigMap", made["name"])["data"] |= data
        return
    metadata = {"name": made["name"]}
    objects.append({"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})


def merged(old: Any, change: Any, name: str = "") -> Any:
    """A strategic merge."""
    if isinstance(old, dict) and isinstance(change, dict):
        both = {k: merged(old[k], change[k], k) for k in old.keys() & change.keys()}
        return old | change | both
    if isinstance(old, list) and name in MERGE_KEYS:
        by = MERGE_KEYS[name]
        kept = {item[by]: item for item in old}
        for item in change:
            kept[item[by]] = merged(kept.get(item[by], {}), item)
        return list(kept.values())
    return change


def containers(objects: list[Object]) -> Iterator[Object]:
    """All containers of all pods, those that initialise them too."""
    for item in objects:
        pod = item.get("spec", {}).get("template", {}).get("spec", {})
        yield from pod.get("initContainers", [])
        yield from pod.get("containers", [])


def ordered(value: Any, name: str = "") -> Any:
    """The same with lists whose order means nothing sorted, to compare two renderings."""
    if isinstance(value, dict):
        return {k: ordered(v, k) for k, v in value.items()}
    if isinstance(value, list):
        items = [ordered(item) for item in value]
        return sorted(items, key=lambda i: i[MERGE_KEYS[name]]) if name in MERGE_KEYS else items
    return value
