"""The Helm chart as tests see it: rendered by Helm itself, read back as objects."""

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from deploy.kubernetes.files import CHART

RELEASE = "chatmesh"
NAMESPACE = "chat"
SERVICES = ("gateway", "moderation", "inference", "history")
SCENARIOS = {path.name.removesuffix("-values.yaml"): path for path in sorted((CHART / "ci").glob("*-values.yaml"))}

Object = dict[str, Any]


def helm_template(
    helm: Path, values: Path, *options: str, release: str = RELEASE
) -> "subprocess.CompletedProcess[str]":
    """What `helm template` says of these values."""
    argv = [helm, "template", release, CHART, "--namespace", NAMESPACE, "--values", values, *options]
    return subprocess.run(argv, capture_output=True, text=True, check=False)


@dataclass(frozen=True)
class Rendered:
    """All objects that the chart makes of some values."""

    name: str
    text: str

    @cached_property
    def objects(self) -> list[Object]:
        return [found for found in yaml.safe_load_all(self.text) if found]

    @cached_property
    def values(self) -> Object:
        """The chart's own values under those of the scenario."""
        return _over(
            yaml.safe_load((CHART / "values.yaml").read_text()), yaml.safe_load(SCENARIOS[self.name].read_text())
        )

    def of(self, kind: str) -> list[Object]:
        """All objects of that kind."""
        return [found for found in self.objects if found["kind"] == kind]

    def named(self, kind: str, name: str) -> Object:
        """The one of that name, which begins with the release's."""
        [found] = [
            found for found in self.of(kind) if found["metadata"]["name"] == f"{RELEASE}-{name}".removesuffix("-")
        ]
        return found

    def pods(self) -> Iterator[tuple[str, Object]]:
        """Component and template of each Deployment and Job."""
        for owner in [*self.of("Deployment"), *self.of("Job")]:
            template = owner["spec"]["template"]
            yield template["metadata"]["labels"]["app.kubernetes.io/component"], template


def container(template: Object) -> Object:
    """The one container of a pod."""
    [found] = template["spec"]["containers"]
    assert "initContainers" not in template["spec"]
    return dict(found)


def mounted_files(rendered: Rendered, template: Object, root: Path) -> dict[str, Path]:
    """Every secret and ConfigMap of a pod as files below `root`; where each volume is mounted, by that path in the pod.

    What a secret holds nobody here knows: its files hold the name of its key.
    """
    volumes = {volume["name"]: volume for volume in template["spec"]["volumes"]}
    found = {}
    for mount in container(template)["volumeMounts"]:
        volume, folder = volumes[mount["name"]], root / mount["mountPath"].lstrip("/")
        folder.mkdir(parents=True)
        found[mount["mountPath"]] = folder
        for item in volume.get("secret", {}).get("items", []):
            (folder / item["path"]).write_text(item["key"])
        if "configMap" in volume:
            [held] = [one for one in rendered.of("ConfigMap") if one["metadata"]["name"] == volume["configMap"]["name"]]
            for name, text in held["data"].items():
                (folder / name).write_text(text)
    return found


def plain_environment(one: Object) -> dict[str, str]:
    """The variables of a container that stand in the manifest."""
    names = [entry["name"] for entry in one["env"]]
    assert len(names) == len(set(names)), f"set twice: {sorted(name for name in names if names.count(name) > 1)}"
    return {entry["name"]: entry["value"] for entry in one["env"] if "value" in entry}


def environment_below(rendered: Rendered, template: Object, root: Path) -> dict[str, str]:
    """What a pod's process finds, where its mounts lie below `root`."""
    folders = mounted_files(rendered, template, root)
    found = {}
    for name, value in plain_environment(container(template)).items():
        at = next((path for path in folders if value == path or value.startswith(f"{path}/")), None)
        found[name] = value if at is None else f"{folders[at]}{value.removeprefix(at)}"
    return found


def _over(base: Any, top: Any) -> Any:
    if isinstance(base, dict) and isinstance(top, dict):
        return {**base, **{key: _over(base.get(key), value) for key, value in top.items()}}
    return top
