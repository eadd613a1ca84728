"""The programs in examples/consumers, as a reader of docs/events.md starts them: they print what clients were told."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from signal import SIGINT

import pytest

from deploy import npm
from deploy.events.consumers import declared
from tests.consumers.conftest import Told
from tests.support.mesh import Mesh

SAMPLES = Path(__file__).resolve().parents[2] / "examples" / "consumers"
_JOIN_S = 60.0
_END_S = 15.0

any_broker = pytest.mark.any_broker


@pytest.fixture(scope="module")
def python() -> list[str]:
    return [sys.executable, str(SAMPLES / "python" / "consumer.py")]


@pytest.fixture(scope="module")
def javascript(node: Path) -> list[str]:
    npm.installed(SAMPLES / "node")
    return [str(node), str(SAMPLES / "node" / "consumer.mjs")]


@asynccontextmanager
async def started(command: list[str], **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, in an environment that knows nothing of us but these variables; it does not outlive the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHATMESH_", "KAFKA_", "PYTHON"))}
    process = await asyncio.create_subprocess_exec(
        *command, env={**kept, **variables}, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def line(told: Told) -> str:
    beginning = json.dumps(told.text[:60], ensure_ascii=False)
    return f"{told.id} {told.status} {told.input_tokens}+{told.output_tokens} tokens {beginning}"


@any_broker
@pytest.mark.parametrize("language", ["python", "javascript"])
async def test_it_prints_every_finished_response_once_and_ends_when_asked_to(
    language: str, mesh: Mesh, told: list[Told], request: pytest.FixtureRequest
) -> None:
    where = {"KAFKA_BOOTSTRAP_SERVERS": mesh.broker.bootstrap, "CHATMESH_NAMESPACE": mesh.namespace}
    group = {"GROUP": f"consumers.{language}"}
    async with started(request.getfixturevalue(language), **where, **group) as process:
        assert process.stdout is not None and process.stderr is not None
        printed: list[str] = []
        async with asyncio.timeout(_JOIN_S):
            while len(printed) < len(told) and (read := await process.stdout.readline()):
                printed.append(read.decode().rstrip("\n"))
        if len(printed) == len(told):
            process.send_signal(SIGINT)
        async with asyncio.timeout(_END_S):
            more, errors = await process.communicate()
    assert (sorted(printed), more, errors.decode()) == (sorted(map(line, told)), b"", "")
    assert process.returncode == 0


async def test_without_a_broker_it_says_so(python: list[str]) -> None:
    async with started(python, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9") as process:
        async with asyncio.timeout(_JOIN_S):
            printed, errors = await process.communicate()
    assert (process.returncode, printed) == (1, b"")
    assert "(KAFKA_BOOTSTRAP_SERVERS: 127.0.0.1:9)" in errors.decode().splitlines()[-1]
    assert "Traceback" not in errors.decode()


@pytest.mark.parametrize("language", ["python", "node"])
def test_it_looks_at_no_other_fields_than_it_declares(language: str) -> None:
    (consumer,) = (each for each in declared() if each.name == f"examples/consumers/{language}")
    program = next((SAMPLES / language).glob("consumer.*")).read_text()
    fields = {
        part for tags in consumer.reads.values() for read in tags.values() for path in read for part in path.split(".")
    }
    assert {field for field in fields if field not in program} == set()
