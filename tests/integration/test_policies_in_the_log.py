"""Policies and verdicts on a real broker: replicas find each other's policies, and an operator reads every verdict."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from typing import Any

import pytest

from deploy.brokers import Broker
from services.moderation.policy import PolicyShelf, parse_policy
from services.moderation.report.__main__ import report
from services.moderation.report.options import parse
from shared.errors import LogError
from shared.ids import new_response_id
from shared.log import LogWriter, Replayer, ensure_topics, partitions_found
from shared.records import BackendReport, Verdict
from shared.settings import MeshSettings
from shared.topics import POLICIES, VERDICTS, Service

PARTITIONS = 3


@pytest.fixture(scope="module")
async def settings(broker: Broker) -> MeshSettings:
    made = MeshSettings(
        KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap, namespace=f"p{uuid.uuid4().hex[:12]}.", partitions=PARTITIONS
    )
    await ensure_topics(made)
    return made


@pytest.fixture(scope="module")
async def writer(settings: MeshSettings) -> AsyncIterator[LogWriter]:
    log_writer = LogWriter(settings, Service.MODERATION, "moderation-1")
    await log_writer.start()
    yield log_writer
    await log_writer.stop()


@pytest.fixture(scope="module")
async def replayer(settings: MeshSettings) -> AsyncIterator[Replayer]:
    reader = Replayer(settings, Service.MODERATION)
    await reader.start()
    yield reader
    await reader.stop()


async def test_a_policy_is_found_as_soon_as_it_is_put(writer: LogWriter, replayer: Replayer) -> None:
    """The first one stands alone in its topic, whose end the embedded broker likes to understate."""
    policies = [
        parse_policy(f"version: v{number}\ncategories:\n  hate: {{output: cut}}\n# {'x' * number * 1000}\n")
        for number in range(5)
    ]
    ours = PolicyShelf(replayer, writer)
    for policy in policies:
        assert await PolicyShelf(replayer, writer).named(policy.name) is None
        await ours.put(policy)
        assert await PolicyShelf(replayer, writer).named(policy.name) == policy
    again = PolicyShelf(replayer, writer)
    for policy in policies:
        await again.put(policy)
    known = await replayer.read(POLICIES, 0, {policy.name for policy in policies}, since_ms=0)
    assert [envelope.record.name for envelope in known.records] == [policy.name for policy in policies]


def verdict(number: int, **changes: Any) -> Verdict:
    stretch = {
        "verdict_id": f"modr_{number:032x}",
        "response_id": new_response_id(number % PARTITIONS).text,
        "tenant": f"tenant-{number % 2}",
        "stage": "output",
        "action": "pass",
        "policy": "v1@00000000",
        "window": number,
        "start": 0,
        "end": 64,
        "latency_ms": 3.0,
        "scores": {"hate": 0.01},
        "thresholds": {"hate": 0.5},
        "backends": [BackendReport(name="encoder", revision="r1", latency_ms=2.0)],
    }
    return Verdict(**{**stretch, **changes})


async def told(settings: MeshSettings, *arguments: str) -> list[str]:
    """What the report says, line by line."""
    lines: list[str] = []
    await report(settings, parse(arguments), lines.append)
    return lines


async def test_every_verdict_is_reported_once(settings: MeshSettings, writer: LogWriter) -> None:
    assert await told(settings) == ["no verdicts"]
    cut = verdict(1000, action="cut", category="hate", scores={"hate": 0.95}, thresholds={"hate": 0.9})
    verdicts = [*(verdict(number) for number in range(500)), cut]
    for each in [*verdicts, *verdicts[:50], cut]:
        writer.enqueue(VERDICTS, each)
    await writer.append(VERDICTS, verdict(499))
    (text,) = await told(settings, "--json", "--since", "1h")
    summary = json.loads(text)
    assert (summary["verdicts"], summary["repeated"]) == (501, 52)
    assert summary["texts"] == {"output": {"pass": 500}}
    assert summary["categories"] == {"hate": {"output": {"cut": 1}}}
    (encoder,) = summary["backends"]
    assert (encoder["name"], encoder["ok"]) == ("encoder", 500)
    (line,) = await told(settings, "--category", "hate", "--action", "cut")
    assert cut.verdict_id in line and cut.response_id in line
    (text,) = await told(settings, "--json", "--tenant", "tenant-1")
    assert json.loads(text)["texts"] == {"output": {"pass": 250}}


async def test_the_partitions_are_the_brokers_not_the_settings(settings: MeshSettings) -> None:
    other = settings.model_copy(update={"partitions": 64})
    assert await partitions_found(other, VERDICTS) == PARTITIONS
    assert len(await told(other)) == 1


async def test_a_broker_without_a_mesh_is_named(settings: MeshSettings) -> None:
    empty = settings.model_copy(update={"namespace": "nobody."})
    with pytest.raises(LogError, match=r"no mesh has run .* nobody\.moderation\.verdicts"):
        await told(empty)
    assert await partitions_found(empty, VERDICTS) == 0  # and asking did not make it


async def test_what_is_found_from_now_on_is_told_as_it_comes(settings: MeshSettings, writer: LogWriter) -> None:
    lines: asyncio.Queue[str] = asyncio.Queue(maxsize=100)
    following = asyncio.create_task(report(settings, parse(["--follow", "--since", "1s"]), lines.put_nowait))
    try:
        async with asyncio.timeout(30):
            await lines.get()  # the summary: it has read all that there was
            flagged = verdict(2000, action="flag", category="hate", scores={"hate": 0.6})
            for each in (verdict(2001), flagged, flagged, verdict(2002, action="refuse", stage="input")):
                await writer.append(VERDICTS, each)
            told = {(await lines.get()).split()[1], (await lines.get()).split()[1]}
        assert told == {flagged.verdict_id, f"modr_{2002:032x}"}
        assert lines.empty() and not following.done()
    finally:
        following.cancel()
        await asyncio.wait({following})
