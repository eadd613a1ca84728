"""The programs in examples/consumers, as a reader of docs/events.md starts them: they print what clients were told."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from signal import SIGINT, SIGTERM
from types import SimpleNamespace
from typing import Any
from urllib.parse import quote

import pytest

from deploy import npm
from deploy.events.consumers import declared
from deploy.events.release import ROOT
from deploy.events.schemas import type_names
from shared.topics import EVENTS
from tests.consumers.conftest import Told
from tests.support.mesh import Mesh

SAMPLES = ROOT / "examples" / "consumers"
EXAMPLES = ROOT / "shared" / "records" / "examples" / EVENTS.name
_JOIN_S = 60.0
_END_S = 60.0

any_broker = pytest.mark.any_broker


@pytest.fixture(scope="module")
def python() -> list[str]:
    return [sys.executable, str(SAMPLES / "python" / "consumer.py")]


@pytest.fixture(scope="module")
def javascript(node: Path) -> list[str]:
    npm.installed(SAMPLES / "node")
    return [str(node), str(SAMPLES / "node" / "consumer.mjs")]


@asynccontextmanager
async def started(
    command: list[str], *, stdout: int = asyncio.subprocess.PIPE, **variables: str
) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program, in an environment that knows nothing of us but these variables; it does not outlive the block."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("CHATMESH_", "KAFKA_", "PYTHON"))}
    process = await asyncio.create_subprocess_exec(
        *command, env={**kept, **variables}, stdout=stdout, stderr=asyncio.subprocess.PIPE
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


async def test_a_commit_under_way_is_waited_for_by_who_is_told_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(SAMPLES / "python"))
    sample = importlib.import_module("consumer")
    asked, answered = asyncio.Event(), asyncio.Event()

    async def commit() -> None:
        asked.set()
        await answered.wait()

    task = asyncio.create_task(sample.commit(SimpleNamespace(commit=commit)))
    await asked.wait()
    task.cancel()
    ended, _ = await asyncio.wait([task], timeout=0.05)
    answered.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not ended


async def test_without_a_broker_it_says_so(python: list[str]) -> None:
    async with started(python, KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9") as process:
        async with asyncio.timeout(_JOIN_S):
            printed, errors = await process.communicate()
    assert (process.returncode, printed) == (1, b"")
    assert "(KAFKA_BOOTSTRAP_SERVERS: 127.0.0.1:9)" in errors.decode().splitlines()[-1]
    assert "Traceback" not in errors.decode()


USER = {"KAFKA_SECURITY_PROTOCOL": "SASL_PLAINTEXT", "KAFKA_SASL_USERNAME": "billing"}
UNUSABLE = (
    ({"KAFKA_SECURITY_PROTOCOL": "SSL", "KAFKA_SSL_CAFILE": "/no/ca.pem"}, "KAFKA_SSL_CAFILE: "),
    ({"KAFKA_SECURITY_PROTOCOL": "TLS"}, "KAFKA_SECURITY_PROTOCOL: TLS is none of PLAINTEXT, SSL, "),
    ({**USER, "KAFKA_SASL_PASSWORD": "x", "KAFKA_SASL_MECHANISM": "GSSAPI"}, "KAFKA_SASL_MECHANISM: GSSAPI is none"),
    (USER, "SASL needs KAFKA_SASL_USERNAME, and KAFKA_SASL_PASSWORD"),
    ({**USER, "KAFKA_SASL_PASSWORD_FILE": sys.executable}, "KAFKA_SASL_PASSWORD_FILE: "),
)


@pytest.mark.parametrize("language", ["python", "javascript"])
@pytest.mark.parametrize(
    ("variables", "said"), UNUSABLE, ids=lambda given: given[:30] if isinstance(given, str) else ""
)
async def test_what_cannot_be_meant_is_one_line(
    language: str, variables: dict[str, str], said: str, request: pytest.FixtureRequest
) -> None:
    async with started(request.getfixturevalue(language), **variables) as process:
        async with asyncio.timeout(_JOIN_S):
            printed, errors = await process.communicate()
    assert (process.returncode, printed) == (1, b"")
    (line_said,) = errors.decode().splitlines()
    assert line_said.startswith(f"error: {said}")


async def test_an_address_that_is_none_is_one_line(python: list[str]) -> None:
    async with started(python, KAFKA_BOOTSTRAP_SERVERS="host:abc") as process:
        _, errors = await process.communicate()
    assert (process.returncode, errors) == (1, b"error: KAFKA_BOOTSTRAP_SERVERS: host:abc is no list of host:port\n")


async def test_an_older_node_is_told_which_one_is_needed(javascript: list[str]) -> None:
    older = "Object.defineProperty(process, 'versions', {value: {...process.versions, node: '22.9.0'}})"
    program, sample = javascript
    async with started([program, "--import", f"data:text/javascript,{older}", sample]) as process:
        _, errors = await process.communicate()
    needed = json.loads((SAMPLES / "node" / "package.json").read_text())["engines"]["node"].removeprefix(">=")
    said = f"error: this is Node.js 22.9.0, and @platformatic/kafka needs {needed} or newer\n"
    assert (process.returncode, errors.decode()) == (1, said)


PUT_OUT = """
import { Consumer } from '%s'
Consumer.prototype.metadata = function () {
  process.once('SIGTERM', () => this.emit('error', new Error('as it leaves')))
  console.log('up')
  if (%s) setImmediate(() => this.emit('error', new Error('put out')))
  return new Promise((resolve) => setTimeout(resolve, 60_000))
}
"""
"""Before the sample: its client tells of what befalls it on its way back into its group, after a rebalance say."""


@pytest.mark.parametrize(
    ("at_once", "status", "said"),
    [("true", 1, "error: put out (KAFKA_BOOTSTRAP_SERVERS: 127.0.0.1:9)\n"), ("false", 0, "")],
    ids=["while it reads", "as it leaves"],
)
async def test_what_happens_on_the_way_back_into_its_group_is_one_line_at_the_most(
    javascript: list[str], at_once: str, status: int, said: str
) -> None:
    program, sample = javascript
    client = (SAMPLES / "node" / "node_modules" / "@platformatic" / "kafka" / "dist" / "index.js").as_uri()
    before = f"data:text/javascript,{quote(PUT_OUT % (client, at_once))}"
    async with started([program, "--import", before, sample], KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9") as process:
        assert process.stdout is not None
        async with asyncio.timeout(_JOIN_S):
            assert await process.stdout.readline() == b"up\n"
            if not status:
                process.send_signal(SIGTERM)
            _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (status, said)


BROKER_LOST = """
import { Consumer } from '%s'
let times = 0
let asked = 0
Consumer.prototype.metadata = async ({ topics, forceUpdate }) => {
  if (forceUpdate) asked++
  const partitions = [{ leader: 2 }, { leader: asked < 2 ? 1 : 3 }]
  return { brokers: new Map([[2, {}], [3, {}]]), topics: new Map([[topics[0], { partitions }]]) }
}
Consumer.prototype.consume = async () => {
  if (times++ === 0) return (async function* () { throw new Error('Cannot find broker with node id 1') })()
  console.log(`reads on after ${asked} questions`)
  return new Promise((resolve) => setTimeout(resolve, 60_000))
}
"""
"""Before the sample: of several brokers one was lost, and the client has not heard yet who leads in its place."""


async def test_the_loss_of_one_broker_ends_no_consumer(javascript: list[str]) -> None:
    program, sample = javascript
    client = (SAMPLES / "node" / "node_modules" / "@platformatic" / "kafka" / "dist" / "index.js").as_uri()
    before = f"data:text/javascript,{quote(BROKER_LOST % client)}"
    async with started([program, "--import", before, sample], KAFKA_BOOTSTRAP_SERVERS="127.0.0.1:9") as process:
        assert process.stdout is not None
        async with asyncio.timeout(_JOIN_S):
            assert await process.stdout.readline() == b"reads on after 2 questions\n"
            process.send_signal(SIGTERM)
            _, errors = await process.communicate()
    assert (process.returncode, errors.decode()) == (0, "")


async def test_a_file_that_is_no_certificate_is_one_line(python: list[str], tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing of the kind")
    async with started(python, KAFKA_SECURITY_PROTOCOL="SSL", KAFKA_SSL_CAFILE=str(tmp_path / "ca.pem")) as process:
        async with asyncio.timeout(_JOIN_S):
            printed, errors = await process.communicate()
    assert (process.returncode, printed) == (1, b"")
    (said,) = errors.decode().splitlines()
    assert said.startswith("error: the files of KAFKA_SSL_* cannot be used: ")


# -- what they look at -------------------------------------------------------------------------------------------------


class Watched(Mapping[str, Any]):
    """A record that notes in `seen` which of its fields somebody reads, with dots."""

    def __init__(self, fields: dict[str, Any], seen: set[str], path: str = "") -> None:
        self._fields = fields
        self._seen = seen
        self._path = path

    def __getitem__(self, name: str) -> Any:
        where = f"{self._path}{name}"
        self._seen.add(where)
        value = self._fields[name]
        return Watched(value, self._seen, f"{where}.") if isinstance(value, dict) else value

    def __iter__(self) -> Iterator[str]:
        raise AssertionError("it looks at every field")

    def __len__(self) -> int:
        return len(self._fields)


def read_by_python(records: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch) -> list[set[str]]:
    monkeypatch.syspath_prepend(str(SAMPLES / "python"))
    sample = importlib.import_module("consumer")
    found: list[set[str]] = []
    for record in records:
        seen: set[str] = set()
        loads = partial(_loads_watched, seen)
        monkeypatch.setattr(sample, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
        headers = [("ce_type", f"chatmesh.{record['type']}".encode())]
        event = sample.finished(SimpleNamespace(headers=headers, value=json.dumps(record)), OrderedDict())
        if event is not None:
            sample.shown(event)
        found.append(seen)
    return found


def _loads_watched(seen: set[str], text: str) -> Watched:
    return Watched(json.loads(text), seen)


def read_by_node(records: list[dict[str, Any]], node: Path) -> list[set[str]]:
    command = [str(node), str(Path(__file__).with_name("reads.mjs")), str(SAMPLES / "node" / "responses.mjs")]
    done = subprocess.run(
        command, input=json.dumps(records), capture_output=True, text=True, timeout=_END_S, check=True
    )
    return [set(fields) for fields in json.loads(done.stdout)]


def leaves(fields: set[str]) -> set[str]:
    """Without those that were only the way to what lies in them."""
    return {field for field in fields if not any(other.startswith(f"{field}.") for other in fields)}


@pytest.fixture(params=["python", "node"])
def sample_and_reads(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> tuple[str, dict[str, set[str]]]:
    """The name of a sample, and which fields it reads of each type of record: of the examples of our own records."""
    records = [json.loads(path.read_bytes()) for path in sorted(EXAMPLES.glob("*.json"))]
    assert {record["type"] for record in records} == set(type_names(EVENTS))
    if request.param == "python":
        found = read_by_python(records, monkeypatch)
    else:
        found = read_by_node(records, request.getfixturevalue("node"))
    read = {record["type"]: leaves(seen) for record, seen in zip(records, found, strict=True) if seen}
    return f"examples/consumers/{request.param}", read


def test_it_looks_at_the_fields_that_it_declares_and_at_no_others(
    sample_and_reads: tuple[str, dict[str, set[str]]],
) -> None:
    name, reads = sample_and_reads
    (consumer,) = (each for each in declared() if each.name == name)
    assert {EVENTS.name: reads} == {
        topic: {tag: set(fields) for tag, fields in records.items()} for topic, records in consumer.reads.items()
    }
