"""Packages from npm for programs of ours, each folder holding exactly what its package-lock.json names."""

import fcntl
import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from deploy.programs import ProgramError, fetched
from shared.errors import ChatmeshError

_STAMP = ".installed-for"
_INSTALL_S = 300


class NpmError(ChatmeshError):
    """npm is missing, or could not install."""


def trouble() -> str | None:
    """Why nothing can be installed here; None: it can."""
    return None if shutil.which("npm") else "npm is not on PATH"


def installed(folder: Path, announce: Callable[[], None] = lambda: None) -> Path:
    """`folder`/node_modules, once it holds what the lock in `folder` says; `announce` is called before it is installed.

    Raises NpmError.
    """
    modules = folder / "node_modules"
    stamp = modules / _STAMP
    wanted = hashlib.sha256((folder / "package-lock.json").read_bytes()).hexdigest()
    with (folder / "package.json").open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two processes in one checkout
        if not stamp.exists() or stamp.read_text() != wanted:
            announce()
            _install(folder)
            stamp.write_text(wanted)
    return modules


def _install(folder: Path) -> None:
    if (missing := trouble()) is not None:
        raise NpmError(f"the packages of {folder.name} cannot be installed: {missing}")
    try:
        fetched(["npm", "ci", "--no-progress", "--loglevel=error"], timeout_s=_INSTALL_S, cwd=folder)
    except ProgramError as error:
        raise NpmError(str(error)) from error
