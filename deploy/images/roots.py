"""Roots of images as folders on this machine, and programs that run inside them as they would in a container.

There is no engine: namespaces of Linux (unshare(1)) and mounts of the machine's own programs stand in for one. What a
base image brings, Debian and Python, is taken from the machine, read-only, or from the root of another Debian (`base`).
Needs Linux and root.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.images.recipe import BASE_PATH

_ENTER = Path(__file__).with_name("enter.sh")
_UNSHARE = ("unshare", "--mount", "--pid", "--fork", "--kill-child", "--propagation", "private")
_LINKS = ("bin", "sbin", "lib", "lib64")
_FOLDERS = ("usr", "etc", "proc", "dev/shm", "tmp", "run", "var/tmp", "root")
_DEVICES = ("null", "zero", "full", "random", "urandom")
_PYTHON_AT = "usr/local"


class RootError(Exception):
    """A root cannot be made or entered here; the message says why."""


@dataclass(frozen=True, slots=True)
class Mount:
    """A folder or file of this machine inside a root. `target` is absolute there."""

    source: Path
    target: str
    writable: bool = False

    @property
    def argument(self) -> str:
        """As enter.sh takes it."""
        return f"{'rw' if self.writable else 'ro'}:{self.source}:{self.target}"


def trouble() -> str | None:
    """Why no root can be entered on this machine; None where one can."""
    if sys.platform != "linux":
        return "it needs Linux"
    if os.geteuid() != 0:
        return "it needs to be root, to mount folders"
    if not Path(sys.base_prefix, "bin", "python").exists():
        return f"it needs a Python that lies in a folder of its own with bin/python, and {sys.base_prefix} has none"
    missing = [name for name in ("unshare", "setpriv", "chroot", "mount") if shutil.which(name) is None]
    if missing:
        return f"it needs {', '.join(missing)}"
    tried = subprocess.run([*_UNSHARE, "true"], capture_output=True, text=True, check=False)
    return None if tried.returncode == 0 else f"this machine makes no namespaces: {tried.stderr.strip()}"


class Root:
    """The root of one stage in `folder`, which must not exist. `base`: the root of a Debian whose /usr and /etc it has.

    `python`: an installation of Python that lies at /usr/local there, as in the official images; None for the base's.
    """

    def __init__(self, folder: Path, *, base: Path = Path("/"), python: Path | None = Path(sys.base_prefix)) -> None:
        self.folder = folder
        self._mounts = [Mount(base / "usr", "/usr"), Mount(base / "etc", "/etc")]
        if python is not None:
            self._mounts.append(Mount(python, f"/{_PYTHON_AT}"))
        self._mounts += [Mount(Path("/dev", name), f"/dev/{name}", writable=True) for name in _DEVICES]
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        for name in _FOLDERS:
            (folder / name).mkdir(parents=True)
        for name in _LINKS:
            if (base / name).exists():
                (folder / name).symlink_to(f"usr/{name}")
        for name, target in (("fd", "/proc/self/fd"), ("stdout", "/proc/self/fd/1"), ("stderr", "/proc/self/fd/2")):
            (folder / "dev" / name).symlink_to(target)

    def path(self, inside: str) -> Path:
        """Where the absolute path `inside` lies on this machine."""
        return self.folder / inside.lstrip("/")

    def command(
        self,
        program: Sequence[str],
        *,
        user: str = "0",
        folder: str = "/",
        mounts: Iterable[Mount] = (),
        read_only: bool = False,
    ) -> list[str]:
        """The command line that runs `program` inside, as process 1; its environment is that of whoever starts it.

        /tmp and /dev/shm are empty and writable; with `read_only` nothing else is, but for mounts that say so.
        """
        wanted = [*self._mounts, *mounts]
        for mount in wanted:
            self._make_target(mount)
        self.path(folder).mkdir(parents=True, exist_ok=True)
        arguments = [*(mount.argument for mount in wanted), "tmpfs:/tmp", "tmpfs:/dev/shm"]
        mode = "ro" if read_only else "rw"
        return [*_UNSHARE, "sh", str(_ENTER), str(self.folder), user, folder, mode, *arguments, "--", *program]

    def _make_target(self, mount: Mount) -> None:
        """What is mounted over must exist; below another mount it does."""
        if any(mount.target.startswith(f"{other.target}/") for other in self._mounts):
            return
        target = self.path(mount.target)
        if mount.source.is_dir():
            target.mkdir(parents=True, exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.touch()


def environment_inside(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` with what a base image would add: its library path is found by ldconfig there."""
    return {"PATH": BASE_PATH, "HOME": "/root", "LD_LIBRARY_PATH": f"/{_PYTHON_AT}/lib", **environment}
