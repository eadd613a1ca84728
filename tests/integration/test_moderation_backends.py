"""A policy whose backend is another service: what it says, when it hangs, when the policy changes, when the owner dies.

The engine says what it is told, so that each test chooses its answer; the policy lets every input in.
"""

import asyncio
import signal
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.ids import parse_response_id
from shared.records import Accepted, Delta, Failed, Verdict
from shared.records.codec import Envelope
from shared.topics import EVENTS, JOURNAL, VERDICTS, Service
from tests.chaos.evidence import Evidence
from tests.chaos.logrules import check_logs
from tests.integration.conftest import MODEL
from tests.support.logs import cluster_of, events_of, records, sub_log
from tests.support.mesh import STOP_S, Mesh, Replica
from tests.support.moderator import Moderator

WORDS = {"qualmy": {"violence": 0.95}, "grumble": {"violence": 0.6}}
CLEAN = "The weather is fine today, and all the birds sing. "
VIOLATING = CLEAN + "This one is qualmy. Nobody may ever read this part, nor anything that is said behind it."
STICKY = CLEAN + "Now comes the molasses, which takes its time, as everybody knows who ever tried to pour it in winter."
HARMLESS = "Long ago there was a mill by the river, and the miller had a cat that could count to seven, or nearly so."
TIMEOUT_S = 2.0
PATIENCE_S = 20.0
BUSY_S = 10.0
"""What a busy machine adds."""
POLICY = """
version: {version}
streaming: {{stride: 8, checkpoint: 16, hold_back: 48, lookback: 256}}
backends:
  words: {{kind: upstream, base_url: "{url}", model: words, timeout_s: {timeout_s}, on_failure: {on_failure}}}
categories:
  violence: {{input: "off", output: cut, thresholds: {{flag: 0.5, cut: 0.9}}}}
"""


@pytest.fixture(scope="module")
def moderator() -> Iterator[Moderator]:
    with Moderator(WORDS) as running:
        yield running


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("backends")


@pytest.fixture(scope="module")
async def mesh(broker: Broker, folder: Path, moderator: Moderator) -> AsyncIterator[Mesh]:
    write_policy(folder, moderator, "first", "closed")
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "40",
        "CHATMESH_POLICY": str(folder / "policy.yaml"),
    }
    counts = {**dict.fromkeys(Service, 1), Service.MODERATION: 2}
    async with Mesh(broker, folder, env=env, counts=counts) as running:
        yield running


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=60) as made:
        yield made


def write_policy(folder: Path, moderator: Moderator, version: str, on_failure: str) -> None:
    """As a deployment does it: the whole file at once."""
    fresh = folder / "policy.yaml.new"
    fresh.write_text(POLICY.format(version=version, url=moderator.url, timeout_s=TIMEOUT_S, on_failure=on_failure))
    fresh.rename(folder / "policy.yaml")


def asked(text: str) -> dict[str, Any]:
    return {"model": MODEL, "input": text}


async def response_of(client: AsyncOpenAI, text: str, transport: str) -> tuple[str, str]:
    """What a client of this transport read in all, and why it ended."""
    messages: Any = [{"role": "user", "content": text}]
    match transport:
        case "json":
            whole = await client.responses.create(**asked(text))
            return whole.output_text, why(whole)
        case "sse":
            stream = await client.responses.create(stream=True, **asked(text))
            return read([event async for event in stream])
        case "websocket":
            async with client.responses.connect() as connection:
                await connection.response.create(**asked(text))
                return read([event async for event in until_last(connection)])
        case "chat":
            completion = await client.chat.completions.create(model=MODEL, messages=messages)
            choice = completion.choices[0]
            return choice.message.content or "", choice.finish_reason
        case _:
            chunks = [
                c async for c in await client.chat.completions.create(model=MODEL, messages=messages, stream=True)
            ]
            choices = [choice for chunk in chunks for choice in chunk.choices]
            said = "".join(choice.delta.content or "" for choice in choices)
            return said, next(choice.finish_reason for choice in choices if choice.finish_reason)


async def until_last(connection: Any) -> AsyncIterator[Any]:
    async for event in connection:
        yield event
        if event.type in ("response.completed", "response.incomplete", "response.failed", "error"):
            return


def read(events: list[Any]) -> tuple[str, str]:
    said = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last = events[-1].response
    assert said == last.output_text
    return said, why(last)


def why(response: Any) -> str:
    if response.error is not None:
        return str(response.error.code)
    return str(response.incomplete_details.reason) if response.incomplete_details else str(response.status)


@pytest.mark.parametrize("transport", ["json", "sse", "websocket", "chat", "chat stream"])
async def test_a_score_cuts_alike_on_every_transport(client: AsyncOpenAI, transport: str) -> None:
    assert await response_of(client, VIOLATING, transport) == (CLEAN, "content_filter")


async def test_every_public_range_has_its_verdict_in_the_log(mesh: Mesh, client: AsyncOpenAI) -> None:
    whole = [await client.responses.create(**asked(text)) for text in (VIOLATING, HARMLESS)]
    verdicts = await verdicts_of(mesh)
    for response in whole:
        evidence = Evidence(
            lines=[],
            journals={response.id: await sub_log(mesh, JOURNAL, response.id)},
            events={response.id: await sub_log(mesh, EVENTS, response.id)},
            references={},
            verdicts=verdicts,
        )
        found = [v for v in check_logs(response.id, evidence) if v.rule.name in ("UNJUDGED", "JUDGED_TWICE")]
        assert found == []
    (cut,) = [v.record for v in verdicts[whole[0].id] if v.record.action == "cut" and v.record.category]
    assert (cut.scores["violence"], cut.thresholds["violence"]) == (0.95, 0.9)
    assert [(report.name, report.status) for report in cut.backends] == [("words", "ok")]


@pytest.mark.any_broker
async def test_a_text_has_one_score_wherever_it_is_asked_about(client: AsyncOpenAI) -> None:
    """Alone, as the input of a request, as the output of one, streamed or whole, in either API."""
    text = "Some grumble."
    asks: Any = {"extra_body": {"moderation": {"model": "omni-moderation-latest"}}}
    alone = await client.moderations.create(input=text)
    whole = await client.responses.create(**asked(text), **asks)
    events = [event async for event in await client.responses.create(stream=True, **asked(text), **asks)]
    messages: Any = [{"role": "user", "content": text}]
    completion = await client.chat.completions.create(model=MODEL, messages=messages, **asks)
    of_responses = [response.to_dict()["moderation"] for response in (whole, events[-1].response)]
    of_chat = completion.to_dict()["moderation"]
    results = [told[side] for told in of_responses for side in ("input", "output")]
    results += [of_chat[side]["results"][0] for side in ("input", "output")]  # the SDK's types differ so
    for result in results:
        assert result["category_scores"] == alone.results[0].to_dict()["category_scores"]
        assert (result["flagged"], result["categories"]["violence"]) == (True, True)
    assert alone.results[0].category_scores.violence == 0.6


@pytest.mark.any_broker
async def test_an_input_that_nobody_can_judge_is_a_503_to_be_tried_again(
    client: AsyncOpenAI, moderator: Moderator
) -> None:
    moderator.fails = "gremlin"
    try:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.responses.create(**asked("What is a gremlin?"))
        assert (caught.value.status_code, caught.value.code) == (503, "moderation_unavailable")
        assert int(caught.value.response.headers["retry-after"]) > 0
        assert (await client.responses.create(**asked(HARMLESS))).status == "completed"
    finally:
        moderator.fails = None


async def verdicts_of(mesh: Mesh) -> dict[str, list[Envelope[Verdict]]]:
    found: dict[str, list[Envelope[Verdict]]] = {}
    for envelope in await records(mesh, VERDICTS):
        found.setdefault(envelope.record.response_id, []).append(envelope)
    return found


async def test_a_backend_that_hangs_ends_its_own_response_only(
    mesh: Mesh, client: AsyncOpenAI, moderator: Moderator
) -> None:
    stuck = await stuck_stream(client, moderator)
    begun_s = time.monotonic()
    try:
        harmless = await client.responses.create(**asked(HARMLESS))
        assert (harmless.status, harmless.output_text) == ("completed", HARMLESS)
        assert time.monotonic() - begun_s < 2 * TIMEOUT_S + alone_s(HARMLESS) + BUSY_S
        events = [event async for event in stuck]
        text, end = read(events)
        assert end == "server_error"
        assert STICKY.startswith(text)
        assert "molasses" not in text
        failed = (await events_of(mesh, events[0].response.id))[-1]
        assert isinstance(failed, Failed)
        assert (failed.code, failed.text) == ("moderation_unavailable", text)
    finally:
        moderator.release()


def alone_s(text: str) -> float:
    """How long the engine takes over a text, in s; a token is a word at least."""
    return 2 * len(text.split()) / 40


async def stuck_stream(client: AsyncOpenAI, moderator: Moderator) -> Any:
    """A stream whose backend hangs, and will not answer before it is released. The whole stream is still to be read."""
    moderator.hang("molasses", spare=STICKY)  # the prompt is let in
    stream = await client.responses.create(stream=True, **asked(STICKY))
    await asyncio.wait_for(asyncio.to_thread(moderator.hanging.wait, PATIENCE_S), PATIENCE_S)
    return stream


async def test_an_owner_that_dies_waiting_for_a_judgement_has_a_successor(
    mesh: Mesh, client: AsyncOpenAI, moderator: Moderator
) -> None:
    moderator.hang("molasses", spare=STICKY)
    stream = await client.responses.create(stream=True, **asked(STICKY))
    events = [await anext(stream)]
    victim = await owner_of(mesh, events[0].response.id)
    assert await asyncio.to_thread(moderator.hanging.wait, PATIENCE_S)
    victim.process.signal(signal.SIGKILL)
    moderator.release()
    events += [event async for event in stream]
    assert read(events) == (STICKY, "completed"), mesh.logs()
    assert [event.sequence_number for event in events] == list(range(len(events)))
    await asyncio.to_thread(victim.process.stop, STOP_S)
    mesh.retire(victim)
    mesh.add(Service.MODERATION)
    await mesh.wait_ready()


async def owner_of(mesh: Mesh, response_id: str) -> Replica:
    partition = parse_response_id(response_id).partition
    cluster = await cluster_of(mesh)
    owner = next(m for m in cluster.alive(Service.MODERATION) if partition in m.beat.partitions)
    return next(r for r in mesh.of(Service.MODERATION) if r.id == owner.beat.id)


async def test_a_policy_changes_under_running_streams_which_keep_theirs(
    mesh: Mesh, client: AsyncOpenAI, folder: Path, moderator: Moderator
) -> None:
    stream = await client.responses.create(stream=True, **asked(VIOLATING))
    write_policy(folder, moderator, "second", "closed")
    reload(mesh)
    events = [event async for event in stream]
    assert read(events) == (CLEAN, "content_filter")
    public = await events_of(mesh, events[0].response.id)
    assert {e.policy.partition("@")[0] for e in public if isinstance(e, Accepted | Delta)} == {"first"}
    await until_in_force(mesh, client, "second")


def reload(mesh: Mesh) -> None:
    """Have every owner look at its policy file now."""
    for replica in mesh.of(Service.MODERATION):
        replica.process.signal(signal.SIGHUP)


async def until_in_force(mesh: Mesh, client: AsyncOpenAI, version: str) -> None:
    """Until every owner accepts under this policy."""
    async with asyncio.timeout(PATIENCE_S):
        seen: set[int] = set()
        while len(seen) < mesh.partitions:
            made = await client.responses.create(model=MODEL, input="Hi.")
            (accepted,) = [e for e in await events_of(mesh, made.id) if isinstance(e, Accepted)]
            if accepted.policy.startswith(f"{version}@"):
                seen.add(parse_response_id(made.id).partition)
            await asyncio.sleep(0.05)


async def test_what_fails_open_goes_on_and_the_verdict_says_so(
    mesh: Mesh, client: AsyncOpenAI, folder: Path, moderator: Moderator
) -> None:
    write_policy(folder, moderator, "lenient", "open")
    reload(mesh)
    await until_in_force(mesh, client, "lenient")
    stream = await stuck_stream(client, moderator)
    events = [event async for event in stream]
    moderator.release()
    assert read(events) == (STICKY, "completed")
    verdicts = (await verdicts_of(mesh))[events[0].response.id]
    reports = [report for verdict in verdicts for report in verdict.record.backends]
    assert {report.status for report in reports} == {"ok", "late"}


@pytest.mark.any_broker
async def test_a_faulty_policy_changes_nothing(mesh: Mesh, client: AsyncOpenAI, folder: Path) -> None:
    (folder / "policy.yaml").write_text("version: faulty\ncategories: {violence: {outptu: cut}}\n")
    reload(mesh)
    async with asyncio.timeout(PATIENCE_S):
        for replica in mesh.of(Service.MODERATION):
            while not any("outptu" in line for line in replica.process.log_tail(200)):
                await asyncio.sleep(0.05)
    whole = await client.responses.create(**asked(VIOLATING))
    assert (whole.output_text, why(whole)) == (CLEAN, "content_filter")
