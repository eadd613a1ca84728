"""Node.js for the client suites: the packages that tests/clients/js pins, and running programs of that folder.

The packages need a newer Node.js than many machines have, so the lock brings one for Linux; elsewhere the machine's
own must be new enough. All that is needed beforehand is npm.
"""

import asyncio
import os
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from deploy import npm

FOLDER = Path(__file__).parent / "js"
REQUIRE = "CHATMESH_REQUIRE_NODE"
"""Set to 1, the suites on Node.js must run: without npm they fail instead of being skipped."""

_MODULES = FOLDER / "node_modules"
_OLDEST = 22


class NodeError(Exception):
    """There is no Node.js that is new enough."""


def trouble() -> str | None:
    """Why this machine cannot run the suites on Node.js; None: it can."""
    return npm.trouble()


def required(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether the suites must run here."""
    return environment.get(REQUIRE, "") not in ("", "0")


def installed() -> Path:
    """The node to run, once node_modules hold what the lock says. Raises NpmError, NodeError."""
    npm.installed(FOLDER)
    return _node()


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
