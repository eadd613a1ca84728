"""The environment of the chat front ends from PyPI: what requirements/frontends.lock names, apart from our own."""

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_LOCK = _ROOT / "requirements" / "frontends.lock"
_ENVIRONMENT = _ROOT / "build" / "frontends"
_STAMP = _ENVIRONMENT / ".installed-for"
_INSTALL_S = 300


class FrontendsError(Exception):
    """uv could not install them."""


def installed() -> Path:
    """The folder of their programs, `python` among them, once it holds what the lock says. Raises FrontendsError."""
    wanted = f"{hashlib.sha256(_LOCK.read_bytes()).hexdigest()} {sys.version}"
    with _LOCK.open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test sessions in one checkout
        if not _STAMP.exists() or _STAMP.read_text() != wanted:
            _uv("venv", "--clear", "--python", sys.executable, str(_ENVIRONMENT))
            python = str(_ENVIRONMENT / "bin" / "python")
            _uv("pip", "sync", "--python", python, "--require-hashes", str(_LOCK))
            _STAMP.write_text(wanted)
    return _ENVIRONMENT / "bin"


def _uv(*arguments: str) -> None:
    uv = shutil.which("uv", path=str(Path(sys.executable).parent)) or shutil.which("uv")
    if uv is None:
        raise FrontendsError("uv is neither in this environment nor on PATH")
    try:
        done = subprocess.run(
            [uv, *arguments, "--quiet"], capture_output=True, text=True, timeout=_INSTALL_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise FrontendsError(f"uv {arguments[0]} did not end within {_INSTALL_S} s") from error
    if done.returncode != 0:
        raise FrontendsError(f"uv {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")
