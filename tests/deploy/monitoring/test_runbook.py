"""Every command of docs/runbook.md, executed: each block with prompts, as it stands there, against a running mesh."""

import asyncio
import os
import re
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.deploy.monitoring.trouble import KEY
from tests.support.mesh import ROOT
from tests.support.tools import required_tool
from tests.support.watched import Prometheus, WatchedMesh
from tests.unit.deploy.monitoring.files import RUNBOOK

_BLOCK = re.compile(r'^```console(?: until="([^"]*)")?\n(.*?)^```$', re.MULTILINE | re.DOTALL)
_PROMPT = "$ "
_DEADLINE_S = 60.0

MAY_FIND_NOTHING = re.compile(r"^grep|ALERTS|error_type!=\"\"|5m < |5\.\.")
"""What looks for trouble that this mesh does not have. That a `grep` could find it, tests/unit shows."""


@dataclass(frozen=True)
class Command:
    """A line behind a prompt. `until`: it runs on; when its output has this, it is ended as by Ctrl-C."""

    line: str
    until: str = ""


def commands(markdown: str) -> list[Command]:
    """The commands of all blocks, each once."""
    found = {
        Command(line.removeprefix(_PROMPT), until)
        for until, block in _BLOCK.findall(markdown)
        for line in block.splitlines()
        if line.startswith(_PROMPT)
    }
    return sorted(found, key=lambda command: markdown.index(command.line))


COMMANDS = commands(RUNBOOK.read_text())


def environment(mesh: WatchedMesh, prometheus: Prometheus) -> dict[str, str]:
    """What the runbook tells its reader to set."""
    worker = mesh.management["inference-1"]
    return {
        **os.environ,
        **mesh.env,
        "PATH": f"{Path(required_tool('promtool')).parent}:{os.environ['PATH']}",
        "PROMETHEUS": prometheus.url,
        "OPENAI_BASE_URL": mesh.url,
        "OPENAI_API_KEY": KEY,
        "MANAGEMENT": f"http://127.0.0.1:{worker}",
        "LOGS": str(mesh.folder),
        "KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap,
        "CHATMESH_NAMESPACE": mesh.namespace,
        "CHATMESH_PARTITIONS": str(mesh.partitions),
        "CHATMESH_SHUTDOWN_S": "5",
    }


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.line[:60])
async def test_the_command_works(command: Command, mesh: WatchedMesh, prometheus: Prometheus) -> None:
    process = await asyncio.create_subprocess_exec(
        *("bash", "-c", f"exec {command.line}" if command.until else command.line),
        cwd=ROOT,
        env=environment(mesh, prometheus),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    assert process.stdout is not None
    said = ""
    async with asyncio.timeout(_DEADLINE_S):
        async for line in process.stdout:
            said += line.decode()
            if command.until and command.until in said and process.returncode is None:
                process.terminate()
        status = await process.wait()
    assert status == 0, said
    assert said.strip() or MAY_FIND_NOTHING.search(command.line), "it tells its reader something"


def test_there_is_something_to_execute_in_every_section() -> None:
    sections = RUNBOOK.read_text().split("\n## ")[1:]
    assert [section.split("\n")[0] for section in sections if not commands(section)] == []
    assert len(COMMANDS) > 40
