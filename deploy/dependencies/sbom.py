"""Bills of materials (CycloneDX, JSON): what each image installs from its locks, with hashes.

`cyclonedx-py` makes and validates them, and the same locks give the same bytes. The base image's own packages are not
among them: a scanner of images lists those.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.dependencies.locks import LOCKS, ROOT, read_lock
from deploy.programs import succeed

OUT = ROOT / "build" / "sbom"
IMAGES: Mapping[str, Sequence[str]] = {
    "gateway": ("gateway", "model"),
    "moderation": ("moderation", "encoder"),
    "inference": ("inference", "model"),
    "history": ("history", "model"),
    "tools": ("tools",),
}
"""Which locks an image installs: a test compares that with its Dockerfile."""
IN_IMAGES = {
    "sys_platform": "linux",
    "platform_system": "Linux",
    "os_name": "posix",
    "platform_machine": "x86_64",
    "python_version": "3.11",
    "python_full_version": "3.11.0",
}
"""What markers are told, whoever writes the bill: the images' platform and Python."""
_TIMEOUT_S = 120.0


def write(image: str, folder: Path = OUT) -> Path:
    """Write and validate the bill of one image. Raises ProgramError."""
    folder.mkdir(parents=True, exist_ok=True)
    out = folder / f"chatmesh-{image}.cdx.json"
    pins = [pin for lock in IMAGES[image] for pin in read_lock(LOCKS / f"{lock}.lock") if pin.wanted_on(IN_IMAGES)]
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as requirements:
        requirements.write("".join(pin.text for pin in sorted(pins)))
        requirements.flush()
        _run(["requirements", requirements.name, "--pyproject", "pyproject.toml", "--output-reproducible"], out)
    return out


def _run(arguments: Sequence[str], out: Path) -> None:
    succeed(
        [
            str(Path(sys.executable).with_name("cyclonedx-py")),
            *arguments,
            *("--spec-version", "1.6", "--output-format", "JSON", "--validate", "--output-file", str(out)),
        ],
        timeout_s=_TIMEOUT_S,
        cwd=ROOT,
        env={"PYTHONHASHSEED": "0", "PYTHONWARNINGS": "ignore"},  # it writes sets, in their order
    )
