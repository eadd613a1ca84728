"""What traces tell of responses to which something happened, and what they never tell.

All of it happens to one mesh first, each in a trace of its client's; what the services exported is looked at once every
one of them has ended.
"""

import asyncio
import hashlib
import json
import signal
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from deploy.tracing.graph import SpanEvent, SpanSeen, faults
from shared.ids import parse_response_id
from shared.records import Claimed
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.logs import cluster_of, journal_of
from tests.support.mesh import Mesh, Replica
from tests.support.otlp import Collector
from tests.support.policies import CUT_PHRASE, MASK_PHRASE, REFUSE_PHRASE, TEST_POLICY

pytestmark = pytest.mark.any_broker  # what is carried in record headers is on every one

COUNTS = {Service.GATEWAY: 1, Service.MODERATION: 2, Service.INFERENCE: 2, Service.HISTORY: 1}
KEY = "sk-cardamom-77"
MARKER = "saffron"
POISON = "hemlock"
STORED = ("whole", "cut", "failed", "cancelled", "resumed", "worker killed", "owner killed")
LONG = f"{MARKER} " + "and so on it went " * 20
"""Said again in 2.6 s."""
SETTLED_S = 2.0
"""The embedded broker may rebalance a group once more after all of its members have heard of a generation."""


@dataclass(frozen=True)
class Told:
    """What was exported, by what happened."""

    collector: Collector
    log: str

    def trace(self, what: str) -> list[SpanSeen]:
        """The trace of the client to whom it happened."""
        return [span for span in self.collector.spans if span.trace_id == trace_id(what)]

    def recorded(self, what: str) -> bool:
        """Whether history told of it: by then all others did, but for what they tell when they end."""
        return any(span.name == "record response" for span in self.trace(what))

    def span(self, what: str, name: str, **attributes: object) -> SpanSeen:
        """The one span of that name there, with these attributes of ours."""
        wanted = {f"chatmesh.{key}": value for key, value in attributes.items()}.items()
        (found,) = [span for span in self.trace(what) if span.name == name and wanted <= span.attributes.items()]
        return found


def trace_id(what: str) -> str:
    return hashlib.md5(what.encode(), usedforsecurity=False).hexdigest()


def in_trace(what: str, *, sampled: bool = True) -> dict[str, str]:
    """Request headers of a client that traces by itself."""
    return {"traceparent": f"00-{trace_id(what)}-b7ad6b7169203331-0{int(sampled)}"}


def environment(folder: Path, **more: str) -> dict[str, str]:
    policy = folder / "policy.yaml"
    policy.write_text(TEST_POLICY)
    return {"CHATMESH_ENGINE": "scripted", "CHATMESH_SCRIPT_TOKENS_PER_S": "40", "CHATMESH_POLICY": str(policy), **more}


# -- what happens ------------------------------------------------------------------------------------------------


class Scene:
    """A mesh and a client of it."""

    def __init__(self, mesh: Mesh, client: AsyncOpenAI) -> None:
        self.mesh = mesh
        self.client = client

    async def play(self) -> None:
        """Everything, the deaths last; a job that two workers get while their group settles is generated twice."""
        async with asyncio.timeout(60):
            await self.until_settled()
        await asyncio.gather(
            self.ask("whole", MARKER),
            self.ask("not sampled", MARKER, sampled=False),
            self.ask("cut", f"{LONG} {CUT_PHRASE} {MARKER}"),
            self.refused("refused", f"{MARKER} {REFUSE_PHRASE}", openai.BadRequestError),
            self.interrupted("cancelled", self.cancel),
            self.interrupted("resumed", self.resume),
        )
        await self.refused("failed", f"{MARKER} {POISON}", openai.InternalServerError)  # its neighbours lose attempts
        await self.interrupted("worker killed", self.kill_worker)
        await self.interrupted("owner killed", self.kill_owner)

    async def until_settled(self) -> None:
        """Return once every worker has had mailboxes of its own, and the same ones, for SETTLED_S."""
        held, since_s = None, time.monotonic()
        while held is None or time.monotonic() - since_s < SETTLED_S:
            if (found := await self.mailboxes()) != held:
                held, since_s = found, time.monotonic()
            await asyncio.sleep(0.2)

    async def mailboxes(self) -> list[list[int]] | None:
        """Which ones each worker has; None while one has none, or two have the same."""
        workers = (await cluster_of(self.mesh)).alive(Service.INFERENCE)
        held = sorted(sorted(worker.beat.partitions) for worker in workers)
        numbers = [number for each in held for number in each]
        settled = len(held) == COUNTS[Service.INFERENCE] and all(held) and len(set(numbers)) == len(numbers)
        return held if settled else None

    async def ask(self, what: str, text: str, *, sampled: bool = True) -> None:
        await self.client.responses.create(model=MODEL, input=text, extra_headers=in_trace(what, sampled=sampled))

    async def refused(self, what: str, text: str, error: type[openai.APIStatusError]) -> None:
        with pytest.raises(error):
            await self.ask(what, text)

    async def interrupted(self, what: str, interrupt: Callable[[str], Awaitable[None]]) -> None:
        """A stream to whose response something happens after its first word."""
        begun = ""
        stream = await self.client.responses.create(model=MODEL, input=LONG, stream=True, extra_headers=in_trace(what))
        async for event in stream:
            if event.type == "response.created":
                begun = event.response.id
            if event.type == "response.output_text.delta" and begun:
                await interrupt(begun)
                begun = ""

    async def cancel(self, response_id: str) -> None:
        await self.client.responses.cancel(response_id, extra_headers=in_trace("canceller"))

    async def resume(self, response_id: str) -> None:
        again = await self.client.responses.retrieve(
            response_id, stream=True, starting_after=0, extra_headers=in_trace("reader")
        )
        assert [event.type async for event in again][-1] == "response.completed"

    async def kill_worker(self, response_id: str) -> None:
        claims = [record for record in await journal_of(self.mesh, response_id) if isinstance(record, Claimed)]
        self.kill(Service.INFERENCE, claims[-1].worker)

    async def kill_owner(self, response_id: str) -> None:
        partition = parse_response_id(response_id).partition
        alive = (await cluster_of(self.mesh)).alive(Service.MODERATION)
        self.kill(Service.MODERATION, next(m.beat.id for m in alive if partition in m.beat.partitions))

    def kill(self, service: Service, service_id: str) -> None:
        victim: Replica = next(r for r in self.mesh.of(service) if r.id == service_id)
        victim.process.signal(signal.SIGKILL)


@pytest.fixture(scope="module")
async def told(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> Told:
    folder = tmp_path_factory.mktemp("traces")
    keys = folder / "keys.yaml"
    keys.write_text(f"{KEY}: {{tenant: acme}}\n")
    more = {"CHATMESH_API_KEYS": str(keys), "CHATMESH_SCRIPT_ECHO": "true", "CHATMESH_SCRIPT_POISON": POISON}
    async with Collector() as collector:
        env = {**environment(folder, **more), **collector.env}
        async with (
            Mesh(broker, folder, env=env, counts=COUNTS) as mesh,
            AsyncOpenAI(base_url=mesh.url, api_key=KEY, max_retries=0, timeout=60) as client,
        ):
            await Scene(mesh, client).play()
            told = Told(collector, mesh.logs())
            async with asyncio.timeout(30):
                while not all(told.recorded(what) for what in STORED):
                    await asyncio.sleep(0.2)
        return told


# -- what is told of it ------------------------------------------------------------------------------------------


def test_a_clients_own_trace_goes_through_all_services(told: Told) -> None:
    assert faults(told.trace("whole"), undisturbed=True) == []


def test_what_a_client_does_not_sample_nobody_exports(told: Told) -> None:
    assert told.trace("not sampled") == []


def test_a_killed_worker_is_told_by_its_owner_and_its_successor(told: Told) -> None:
    assert faults(told.trace("worker killed")) == []
    first, second = (told.span("worker killed", "send generation.jobs", attempt=n) for n in (1, 2))
    assert second.links == ((first.trace_id, first.span_id),)
    lost = told.span("worker killed", "generation lost", attempt=1, reason="silent")
    assert lost.parent_id == first.span_id
    assert lost.attributes["chatmesh.worker"] == first.attributes["chatmesh.worker"]
    taken = event(told.span("worker killed", "screen output"), "chatmesh.takeover")
    assert (taken["chatmesh.reason"], taken["chatmesh.attempt"]) == ("silent", 1)
    chat = told.span("worker killed", f"chat {MODEL}")
    assert chat.parent_id == second.span_id
    at = event(chat, "chatmesh.takeover")["chatmesh.position"]
    assert 0 < at == taken["chatmesh.position"] < chat.attributes["gen_ai.usage.output_tokens"]


def test_a_killed_owner_is_told_by_its_successor(told: Told) -> None:
    screening = told.span("owner killed", "screen output")
    (linked,) = screening.links
    assert linked[0] == trace_id("owner killed")
    assert linked[1] not in {span.span_id for span in told.trace("owner killed")}, "the victim exported its open span"
    taken = event(screening, "chatmesh.takeover")
    assert taken["chatmesh.epoch"] == screening.attributes["chatmesh.epoch"]
    assert taken["chatmesh.public_position"] > 0
    assert faults(told.trace("owner killed")) == []


def test_a_reader_who_comes_back_and_the_response_lead_to_each_other(told: Told) -> None:
    (request,) = told.trace("reader")
    resume = told.span("resumed", "resume stream", starting_after=0)
    assert request.links == ((resume.trace_id, resume.parent_id),)
    assert resume.links == ((request.trace_id, request.span_id),)
    assert request.attributes["chatmesh.origin.trace_id"] == resume.trace_id
    assert resume.attributes["chatmesh.origin.trace_id"] == request.trace_id
    assert request.attributes["gen_ai.response.id"] == resume.attributes["gen_ai.response.id"]
    assert faults(told.trace("resumed")) == []


def test_a_cancel_is_told_with_who_asked_for_it(told: Told) -> None:
    (request,) = told.trace("canceller")
    screening = told.span("cancelled", "screen output", outcome="cancelled")
    assert event(screening, "chatmesh.cancel")["chatmesh.reason"] == "requested"
    assert screening.links == ((request.trace_id, request.span_id),)
    assert request.links == ((screening.trace_id, screening.span_id),)


def test_a_cut_is_told_with_its_category(told: Told) -> None:
    cut = event(told.span("cut", "screen output", outcome="incomplete"), "chatmesh.cut")
    assert (cut["chatmesh.reason"], cut["chatmesh.category"]) == ("policy", "violence")


def test_a_failure_is_told_by_its_kind(told: Told) -> None:
    attempts = [span for span in told.trace("failed") if span.name == f"chat {MODEL}"]
    assert [span.attributes["error.type"] for span in attempts] == ["engine_failed"] * 3
    assert told.span("failed", "screen output", outcome="failed").attributes["error.type"] == "server_error"
    assert told.span("failed", "POST /v1/responses").attributes["error.type"] == "server_error"
    assert not any("gen_ai.usage.output_tokens" in span.attributes for span in attempts)


def test_usage_is_counted_once_in_a_trace(told: Told) -> None:
    for what in ("whole", "worker killed", "owner killed", "cut", "cancelled"):
        counted = [span for span in told.trace(what) if "gen_ai.usage.output_tokens" in span.attributes]
        assert len(counted) == 1, what


def test_no_text_and_no_key_is_exported_unless_asked_for(told: Told) -> None:
    everything = b"".join(told.collector.exports)
    for secret in (MARKER, KEY, POISON, CUT_PHRASE, REFUSE_PHRASE, "went"):
        assert secret.encode() not in everything, secret
    assert b"acme" in everything, "one would have found it"


def test_nobody_complains_of_traces(told: Told) -> None:
    assert "traces are" not in told.log


async def test_only_what_was_screened_is_captured(broker: Broker, tmp_path: Path) -> None:
    said = f"A {MASK_PHRASE} a day and nothing else. {CUT_PHRASE.title()} and {MARKER}."
    more = {"CHATMESH_TRACE_CONTENT": "true", "CHATMESH_SCRIPT_TEXT": said}
    async with Collector() as collector:
        env = {**environment(tmp_path, **more), **collector.env}
        async with (
            Mesh(broker, tmp_path, env=env) as mesh,
            AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0) as client,
        ):
            scene = Scene(mesh, client)
            response = await client.responses.create(model=MODEL, input="What now?", instructions="Be brief.")
            await scene.refused("refused", f"{REFUSE_PHRASE} {POISON}", openai.BadRequestError)
    told = collector.of_response(response.id)
    (screening,) = [span for span in told if span.name == "screen output"]
    (request,) = [span for span in told if span.name == "POST /v1/responses"]
    assert [turn["role"] for turn in content(screening, "input")] == ["system", "user"]
    assert content(request, "input") == [{"role": "user", "parts": [{"type": "text", "content": "What now?"}]}]
    (answer,) = content(screening, "output")
    assert answer["finish_reason"] == "content_filter"
    assert answer["parts"] == [{"type": "text", "content": response.output_text}]
    assert "[fruit]" in response.output_text
    everything = b"".join(collector.exports)
    for unscreened in (MASK_PHRASE, CUT_PHRASE.title(), MARKER, REFUSE_PHRASE, POISON):
        assert unscreened.encode() not in everything, unscreened


def content(span: SpanSeen, which: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = json.loads(span.attributes[f"gen_ai.{which}.messages"])
    return messages


def event(span: SpanSeen, name: str) -> Mapping[str, Any]:
    found: SpanEvent
    (found,) = [each for each in span.events if each.name == name]
    return found.attributes
