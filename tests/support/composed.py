"""The compose file as Docker's own parser reads it, and what a container of it finds."""

import json
import subprocess
from pathlib import Path
from typing import Any

from deploy.images.rehearsal import REPOSITORY, TOOLS, recipe_of

FOLDER = REPOSITORY / "deploy" / "compose"
BASE, GPU, SECURE = "compose.yaml", "compose.gpu.yaml", "compose.secure.yaml"
RUN_ONCE = ("topics", "rights")
"""Services that run one of the operators' tools and end."""


def parsed(parser: Path, *files: str) -> Any:
    """The project that the files come to, every default and every variable in place."""
    done = subprocess.run(
        [parser, "--format", "json", *files], cwd=FOLDER, capture_output=True, text=True, check=False, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def environment_of(project: Any, name: str, secrets: Path | None = None) -> dict[str, str]:
    """What a process of this service finds, its image's variables included; secrets where the test has them."""
    service = project["services"][name]
    image = TOOLS if name in RUN_ONCE else name
    found = {**recipe_of(image).image.environment, **told(service)}
    return found if secrets is None else in_folder(project, service, found, secrets)


def told(service: Any) -> dict[str, str]:
    """Its environment in the file, which is a list once files are merged."""
    found = service.get("environment", {})
    pairs = (line.split("=", 1) for line in found) if isinstance(found, list) else found.items()
    return {name: str(value) for name, value in pairs}


def in_folder(project: Any, service: Any, environment: dict[str, str], secrets: Path) -> dict[str, str]:
    """The environment with files of the folder `secrets` where it names mounted ones."""
    files = {
        f"/run/secrets/{used['source']}": secret_file(project, used["source"], secrets) for used in used_by(service)
    }
    return {name: str(files.get(value, value)) for name, value in environment.items()}


def used_by(service: Any) -> list[Any]:
    """The secrets that it mounts."""
    return list(service.get("secrets", []))


def secret_file(project: Any, name: str, secrets: Path) -> Path:
    """A secret of the project where the test has it."""
    return secrets / Path(project["secrets"][name]["file"]).name
