"""One mesh for all that watches a mesh: JSON logs at their most talkative, metrics, Prometheus, and some trouble."""

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import yaml
from openai import AsyncOpenAI

from deploy.brokers import Broker
from tests.deploy.monitoring.trouble import HIDDEN, KEY, POISON, UNJUDGED, make_trouble
from tests.support.moderator import Moderator
from tests.support.policies import CUT_PHRASE, REFUSE_PHRASE
from tests.support.tools import required_tool
from tests.support.watched import Prometheus, WatchedMesh

POLICY = f"""
version: test-1
streaming: {{{{stride: 8, checkpoint: 16, hold_back: 48, lookback: 256}}}}
backends:
  words: {{{{kind: upstream, base_url: "{{url}}", model: words, timeout_s: 5, on_failure: open}}}}
categories:
  violence:
    patterns: ["{CUT_PHRASE}"]
    input: off
    output: cut
    thresholds: {{{{cut: 0.9}}}}
  illicit:
    patterns: ["{REFUSE_PHRASE}"]
    input: refuse
    output: off
"""


@pytest.fixture(scope="package")
def moderator() -> Iterator[Moderator]:
    """The model that judges, elsewhere; about some texts it fails."""
    with Moderator({}) as running:
        running.fails = UNJUDGED
        yield running


@pytest.fixture(scope="package")
async def mesh(
    broker: Broker, moderator: Moderator, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[WatchedMesh]:
    """Four services that have served users, good and bad ones, and met records that they cannot read."""
    if not broker.capabilities.persistent:
        pytest.skip("what operators do is shown on Apache Kafka")
    folder = tmp_path_factory.mktemp("watched")
    (folder / "policy.yaml").write_text(POLICY.format(url=moderator.url))
    (folder / "keys.yaml").write_text(yaml.safe_dump({KEY: {"tenant": "acme"}}))
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "200",
        "CHATMESH_SCRIPT_POISON": POISON,
        "CHATMESH_POLICY": str(folder / "policy.yaml"),
        "CHATMESH_API_KEYS": str(folder / "keys.yaml"),
        "CHATMESH_LOG_FORMAT": "json",
        "CHATMESH_LOG_LEVEL": "DEBUG",
        # Nobody listens there: spans are made all the same, so that lines and exemplars have their ids.
        "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
    }
    async with WatchedMesh(broker, folder, env=env) as running:
        yield running
    assert_discreet(folder)  # what is said at the end is said too


@pytest.fixture(scope="package")
async def prometheus(mesh: WatchedMesh) -> AsyncIterator[Prometheus]:
    """Prometheus, which has read the mesh before, while and after it was in trouble."""
    folder = mesh.folder / "prometheus"
    folder.mkdir()
    async with Prometheus(required_tool("prometheus"), mesh, folder) as running:
        await make_trouble(mesh)
        await running.until("sum(chatmesh_usage_responses_total) > 0")
        yield running


@pytest.fixture
async def client(mesh: WatchedMesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.url, api_key=KEY, max_retries=0, timeout=60) as sdk:
        yield sdk


def assert_discreet(folder: Path) -> None:
    """Every line of every service is JSON, and none holds what users wrote, or a key."""
    texts = {path.name: path.read_text() for path in folder.glob("*.log")}
    assert [(name, hidden) for name, text in texts.items() for hidden in HIDDEN if hidden in text] == []
    assert lines_of(folder)


def lines_of(folder: Path) -> list[dict[str, str]]:
    """Every line of every service's log. Raises AssertionError for one that is no JSON object."""
    lines = []
    for path in sorted(folder.glob("*.log")):
        for number, line in enumerate(path.read_text().splitlines(), start=1):
            try:
                entry = json.loads(line)
            except json.JSONDecodeError:
                raise AssertionError(f"{path.name}:{number} is no JSON: {line[:200]}") from None
            assert isinstance(entry, dict), line
            lines.append(entry)
    return lines
