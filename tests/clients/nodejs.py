"""Node.js for the client suites: the packages that tests/clients/js pins, and running programs of that folder.

The packages need a newer Node.js than many machines have, so the lock brings one for Linux; elsewhere the machine's
own must be new enough. All that is needed beforehand is npm.
"""

import asyncio
import fcntl
import hashlib
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

FOLDER = Path(__file__).parent / "js"
REQUIRE = "CHATMESH_REQUIRE_NODE"
"""Set to 1, the suites on Node.js must run: without npm they fail instead of being skipped."""

_MODULES = FOLDER / "node_modules"
_STAMP = _MODULES / ".installed-for"
_OLDEST = 22
_INSTALL_S = 300


class NodeError(Exception):
    """npm could not install, or there is no Node.js that is new enough."""


def trouble() -> str | None:
    """Why this machine cannot run the suites on Node.js; None: it can."""
    return None if shutil.which("npm") else "npm is not on PATH"


def required(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the suites must run here."""
    return environment.get(REQUIRE, "") not in ("", "0")


def installed() -> Path:
    """The node to run, once node_modules hold what the lock says. Raises NodeError."""
    wanted = hashlib.sha256((FOLDER / "package-lock.json").read_bytes()).hexdigest()
    with (FOLDER / "package.json").open() as guard:
        fcntl.flock(guard, fcntl.LOCK_EX)  # two test sessions in one checkout
        if not _STAMP.exists() or _STAMP.read_text() != wanted:
            _install()
            _STAMP.write_text(wanted)
    return _node()


def _install() -> None:
    try:
        done = subprocess.run(
            ["npm", "ci", "--no-progress", "--loglevel=error"],
            cwd=FOLDER,
            capture_output=True,
            text=True,
            timeout=_INSTALL_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise NodeError(f"npm ci did not end within {_INSTALL_S} s") from error
    if done.returncode != 0:
        raise NodeError(f"npm ci ended with {done.returncode}: {done.stderr.strip() or done.stdout.strip()}")


def _node() -> Path:
    brought = sorted(_MODULES.glob("node-*/bin/node"))
    node = brought[0] if brought else shutil.which("node")
    if node is None:
        raise NodeError("npm brought no Node.js for this platform, and none is on PATH")
    version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.removeprefix("v").split(".")[0]) < _OLDEST:
        raise NodeError(f"Node.js {version} is too old: the packages need {_OLDEST}")
    return Path(node)


async def started(node: Path, *arguments: str, scene: str) -> asyncio.subprocess.Process:
    """A program of the folder, begun; `scene` is what mesh.mjs reads."""
    return await asyncio.create_subprocess_exec(
        str(node),
        *arguments,
        cwd=FOLDER,
        env={**os.environ, "CHATMESH_SCENE": scene, "NODE_NO_WARNINGS": "1", "AI_SDK_LOG_WARNINGS": "false"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
