"""What a lock file pins, on which platform. Pure but for reading files."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
LOCKS = ROOT / "requirements"
TOOLS = ROOT / "deploy" / "toolbox"

_BLOCK = re.compile(r"^(?=[A-Za-z0-9])", re.MULTILINE)


@dataclass(frozen=True, order=True, slots=True)
class Pin:
    """A package at one version; `text` is what the lock says of it: the marker and the hashes too."""

    name: str
    version: str
    text: str

    def wanted_on(self, platform: Mapping[str, str]) -> bool:
        """Whether it is installed there; `platform` as markers know it (`sys_platform`, …)."""
        marker = _marker(self.text)
        return marker is None or marker.evaluate(dict(platform))


def _requirement(text: str) -> Requirement:
    """Of a pin's first line."""
    return Requirement(text.splitlines()[0].rstrip("\\ "))


def _marker(text: str) -> Marker | None:
    return _requirement(text).marker


def read_lock(path: Path) -> list[Pin]:
    """The pins of a lock, in its order."""
    found = []
    for block in _BLOCK.split(path.read_text(encoding="utf-8")):
        if block[:1].isalnum():
            requirement = _requirement(block)
            (specifier,) = requirement.specifier
            found.append(Pin(requirement.name, specifier.version, block))
    return found


def all_pins(paths: Iterable[Path] | None = None) -> list[Pin]:
    """What any lock pins, each name and version once, by name."""
    paths = sorted([*LOCKS.glob("*.lock"), *TOOLS.glob("*.lock")]) if paths is None else paths
    found = {(pin.name, pin.version): pin for path in paths for pin in read_lock(path)}
    return [found[key] for key in sorted(found)]
