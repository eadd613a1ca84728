"""Many readers of one response, and one gateway's readers at another."""

import asyncio
import signal
from collections.abc import Iterator, Mapping, Sequence

from websockets.asyncio.client import connect

from services.gateway.projections import ResponsesProjection
from shared.ids import parse_response_id
from shared.topics import EVENTS, Service
from tests.chaos.clients import Gateway
from tests.chaos.evidence import Harm, SubLog, Violation
from tests.chaos.figures import row
from tests.chaos.observations import AnyClientLine, Event, Opened, by_stream
from tests.chaos.scenarios import logs
from tests.chaos.scenarios.requests import UNDER_WAY, created
from tests.chaos.scenarios.rules import Follower, different
from tests.chaos.scenarios.stage import PATIENCE_S, Outcome, Stage, gateway
from tests.chaos.wire import request

END_S = 10.0
TOKENS = 120
HEIRS = 200
HEIR_TOKENS = 60
HEIR_TOKENS_PER_S = 3.0
"""200 streams at this pace are 600 tokens a second, which leaves two cores time for the resumption itself."""
LATE_S = 10.0
"""Promised is 0.3 s (p99), which the figures show."""


async def followers(stage: Stage) -> Outcome:
    """One response, read at both gateways over both transports from several places, some beginning late."""
    (question,) = await stage.questions(1, TOKENS)
    response_id = await created(stage, question, background=True)
    here, there = stage.gateways()
    async with asyncio.timeout(PATIENCE_S), asyncio.TaskGroup() as group:
        reading = []
        for late, starting_after in enumerate((-1, 0, 5, 17, 40)):
            for at in (here, there):
                reading.append(group.create_task(_over_events(at, response_id, starting_after)))
                reading.append(group.create_task(_over_frames(at, response_id, starting_after)))
            await asyncio.sleep(0.5 * late)
    return Outcome(list(different(response_id, [task.result() for task in reading])))


async def _over_events(at: Gateway, response_id: str, starting_after: int) -> Follower:
    query = {"stream": "true"} | ({"starting_after": str(starting_after)} if starting_after >= 0 else {})
    async with request("GET", f"{at.url}/responses/{response_id}", query=query) as answer:
        events = [event async for event in answer.events()]
    return Follower(f"SSE at {at.id}", starting_after, events)


async def _over_frames(at: Gateway, response_id: str, starting_after: int) -> Follower:
    query = f"response_id={response_id}" + (f"&starting_after={starting_after}" if starting_after >= 0 else "")
    url = f"{at.url.replace('http:', 'ws:')}/responses?{query}"
    events: list[bytes] = []
    async with connect(url, max_size=None) as socket:
        async for message in socket:
            events.append(message.encode() if isinstance(message, str) else message)
            if b'"type":"response.incomplete"' in events[-1][:200]:
                break
    return Follower(f"WebSocket at {at.id}", starting_after, events)


async def heirs(stage: Stage) -> Outcome:
    """A gateway dies under 200 streams, and all of their readers come to the other one at once.

    Leaves slow workers behind: it comes last.
    """
    await _slow_workers(stage)
    victim, heir = stage.mesh.of(Service.GATEWAY)[:2]
    entrances = [gateway(victim)]
    questions = await stage.questions(8, HEIR_TOKENS)
    clients = [stage.client(lambda: entrances) for _ in range(HEIRS)]
    async with asyncio.timeout(2 * PATIENCE_S), asyncio.TaskGroup() as group:
        for number, client in enumerate(clients):
            group.create_task(client.run(questions[number % 8].wanted(), PATIENCE_S))
        while any(client.events_seen <= UNDER_WAY for client in clients):
            await asyncio.sleep(0.05)
        entrances[:] = [gateway(heir)]
        victim.process.signal(signal.SIGKILL)
        await asyncio.to_thread(victim.process.wait, PATIENCE_S)
        stage.mesh.retire(victim)
    stage.mesh.add(Service.GATEWAY)
    events = await logs.sub_logs(stage.mesh, EVENTS)
    streams = by_stream(stage.notebook.lines)
    waits = {
        client.response_id: wait_s
        for client in clients
        if (wait_s := resumed_s(streams[client.number], public_at(events[client.response_id]))) is not None
    }
    found = list(late(heir.id, waits, HEIRS))
    return Outcome(found, [row("gateway SIGKILL: resumed to first missing event", 1, list(waits.values()))])


async def _slow_workers(stage: Stage) -> None:
    """Workers of another pace in place of those that run."""
    for replica in stage.mesh.of(Service.INFERENCE):
        await asyncio.to_thread(replica.process.stop, END_S)
        stage.mesh.retire(replica)
        stage.mesh.add(Service.INFERENCE, CHATMESH_SCRIPT_TOKENS_PER_S=str(HEIR_TOKENS_PER_S))
    await stage.mesh.wait_ready()


def late(heir: str, waits_s: Mapping[str, float], streams: int) -> Iterator[Violation]:
    """Every stream was resumed, none after more than LATE_S; `waits_s` by response id."""
    for response_id, wait_s in waits_s.items():
        if wait_s > LATE_S:
            yield Violation(Harm.LATE, response_id, f"went on after {wait_s:.2f} s")
    if len(waits_s) < streams:
        yield Violation(Harm.LATE, heir, f"{len(waits_s)} of {streams} streams were resumed there")


def public_at(events: SubLog) -> dict[int, float]:
    """Sequence number → when its record came into the log (unix seconds, the log's clock)."""
    projection = ResponsesProjection(parse_response_id(events[0].record.response_id))
    times: dict[int, float] = {}
    for envelope in events:
        for event in projection.feed(envelope.record):
            times[event.sequence_number] = envelope.timestamp_ms / 1000
    return times


def resumed_s(lines: Sequence[AnyClientLine], public: Mapping[int, float]) -> float | None:
    """From the request that resumes a stream to the first event that it missed, or from that event's record where it
    came later; None: the stream was never resumed."""
    sent_at: float | None = None
    for line in lines:
        if isinstance(line, Opened) and line.starting_after >= 0:
            sent_at = line.sent_at
        elif isinstance(line, Event) and sent_at is not None:
            return line.at - max(sent_at, public[line.number])
    return None
