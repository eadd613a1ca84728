"""Python environments of their own for programs of others, each holding exactly what its lock names."""

import fcntl
import hashlib
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from deploy.programs import ProgramError, succeed
from shared.errors import ChatmeshError

_ROOT = Path(__file__).resolve().parents[1]
_STAMP = ".installed-for"
_INSTALL_S = 600


class InstallError(ChatmeshError):
    """uv could not install them."""


def installed(name: str, folder: str, announce: Callable[[], None] = lambda: None) -> Path:
    """The programs of `requirements/<name>.lock`, `python` among them: the folder `build/<folder>/bin`.

    They are installed first if they are not there, or the lock has changed since; `announce` is called before that.
    Raises InstallError.
    """
    lock, environment = _ROOT / "requirements" / f"{name}.lock", _ROOT / "build" / folder
    wanted = f"{hashlib.sha256(lock.read_bytes()).hexdigest()} {sys.version}"
    with lock.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two processes in one checkout
        stamp = environment / _STAMP
        if not stamp.exists() or stamp.read_text() != wanted:
            announce()
            _uv("venv", "--clear", "--python", sys.executable, str(environment))
            _uv("pip", "sync", "--python", str(environment / "bin" / "python"), "--require-hashes", str(lock))
            stamp.write_text(wanted)
    return environment / "bin"


def _uv(*arguments: str) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise InstallError("uv is neither in this environment nor on PATH: run `make clean`, then the command again")
    try:
        succeed([uv, *arguments, "--quiet"], timeout_s=_INSTALL_S)
    except ProgramError as error:
        raise InstallError(str(error)) from error
