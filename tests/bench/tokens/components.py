"""CPU per token of worker, owner and gateway, each alone on the broker, each beside its bare loop.

One machine of few cores cannot run a whole mesh and its load at full rate without each taking the other's time. So
each service runs as the only one, as its real process, under the full load: the bench appends what the others would
have appended.
"""

import asyncio
import itertools
import json
import tempfile
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import msgspec

from deploy.brokers import Broker
from services.gateway.projections import ClientEvent
from shared.log.clients import topic_name
from shared.records import Record
from shared.records.codec import encode_headers, encode_value
from shared.topics import EVENTS, JOBS, JOURNAL, Service, Topic
from tests.bench.systems import POLICY
from tests.bench.tokens.bare import BareLoop, BareRecord
from tests.bench.tokens.child import child
from tests.bench.tokens.cost import Cost, Measured
from tests.bench.tokens.rate import NEVER_ENDS, STARTS_PER_S, TokenLoad, due
from tests.bench.tokens.readers import Readers
from tests.bench.tokens.stage import Stage, beside, stage
from tests.bench.tokens.synthetic import MAILBOX, PIECE, Synthetic, next_delta
from tests.bench.tokens.window import Window, counted, steady_window

_BARE = "tests.bench.tokens.bare"
_ENGINE = "tests.bench.tokens.engine_alone"
READERS = "tests.bench.tokens.readers"

Kind = Literal["produce", "relay", "consume", "serve"]


# -- the worker ------------------------------------------------------------------------------------------------


async def worker(broker: Broker, load: TokenLoad) -> Measured:
    """A worker that says scripted streams; a bare producer of the same records; the engine that it has on top."""
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SLOTS": str(load.streams),
        "CHATMESH_SCRIPT_TOKENS_PER_S": str(load.tokens_per_s / load.streams),
    }
    async with stage(broker, load, Service.MODERATION, env) as there:
        pid = await there.start(Service.INFERENCE)
        await _send_jobs(there)
        window = await steady_window(load, pid)
        await asyncio.to_thread(there.mesh.stop)
        cost = await _cost("worker", there, window, JOURNAL)
    async with stage(broker, load, Service.INFERENCE) as there:
        records = [_ready_made(response.tokens()) for response in there.responses()]
        async with child(_BARE, _told("produce", there, JOURNAL, records)) as loop:
            window = await steady_window(load, loop.pid)
        bare = await _cost("bare producer", there, window, JOURNAL)
    async with child(_ENGINE, json.dumps(asdict(load)).encode()) as engine:
        window = await steady_window(load, engine.pid)
    return Measured(cost, [bare], Cost.of("scripted engine", window, round(load.tokens_per_s * window.length_s)))


async def _send_jobs(there: Stage) -> None:
    """Evenly, so that the streams' tokens are due at different times."""
    waiting = iter(there.responses())
    async for count in due(STARTS_PER_S):
        some = list(itertools.islice(waiting, count))
        if count and not some:
            return
        await there.say(JOBS, [response.job(NEVER_ENDS) for response in some], MAILBOX)


# -- the owner -------------------------------------------------------------------------------------------------


async def owner(broker: Broker, load: TokenLoad) -> Measured:
    """An owner that publishes every token, a bare consumer and producer that does."""
    with tempfile.TemporaryDirectory(prefix="chatmesh-bench-") as folder:
        policy = Path(folder) / "policy.yaml"
        policy.write_text(POLICY.format(hold_back=0, lookback=64))
        return await _owner("owner, every token at once", broker, load, CHATMESH_POLICY=str(policy))


async def owner_of_default_policy(broker: Broker, load: TokenLoad) -> Measured:
    """The same under the default policy: fewer, longer events, as many from the bare loop."""
    return await _owner("owner, default policy", broker, load)


async def _owner(name: str, broker: Broker, load: TokenLoad, **env: str) -> Measured:
    async with stage(broker, load, Service.INFERENCE) as there:
        responses = there.responses()
        pid = await there.start(Service.MODERATION, [response.claim for response in responses], **env)
        await there.say(JOURNAL, [r for response in responses for r in (response.requested(), response.claimed())])
        async with beside(there.feed(JOURNAL, [response.tokens for response in responses])):
            window = await steady_window(load, pid)
        cost = await _cost(name, there, window, JOURNAL, written=EVENTS)
    return Measured(cost, [await _bare_owner(broker, load, every=cost.tokens / max(1, cost.written))])


async def _bare_owner(broker: Broker, load: TokenLoad, every: float) -> Cost:
    """One event for `every` so many tokens, with their text."""
    async with stage(broker, load, Service.INFERENCE) as there:
        responses, text = there.responses(), "x" * round(len(PIECE) * every)
        events = [_ready_made(next_delta(response.response_id, 0, text)) for response in responses]
        told = _told("relay", there, JOURNAL, events, out=topic_name(there.settings, EVENTS), every=every)
        async with child(_BARE, told) as loop, beside(there.feed(JOURNAL, [response.tokens for response in responses])):
            window = await steady_window(load, loop.pid)
        return await _cost("bare consumer and producer", there, window, JOURNAL, written=EVENTS)


# -- the gateway -----------------------------------------------------------------------------------------------


async def gateway(broker: Broker, load: TokenLoad) -> Measured:
    """A gateway with an SSE client per stream; a bare consumer, alone and with the same bytes to as many sockets."""
    async with stage(broker, load, Service.MODERATION, {"CHATMESH_MAX_IN_FLIGHT": str(2 * load.streams)}) as there:
        pid = await there.start(Service.GATEWAY)
        accepted: asyncio.Queue[str] = asyncio.Queue()
        async with beside(there.accept(accepted)), child(READERS, _readers(there, gateway_port(there))):
            responses = [Synthetic.of(accepted.get_nowait(), there.model) for _ in range(load.streams)]
            async with beside(there.feed(EVENTS, [response.delta for response in responses])):
                window = await steady_window(load, pid)
        cost = await _cost("gateway, a stream an SSE client", there, window, EVENTS)
    return Measured(cost, [await _bare_gateway(broker, load, kind) for kind in ("consume", "serve")])


async def _bare_gateway(broker: Broker, load: TokenLoad, kind: Literal["consume", "serve"]) -> Cost:
    name = {"consume": "bare consumer", "serve": "bare consumer and socket writers"}[kind]
    async with stage(broker, load, Service.MODERATION) as there:
        responses = there.responses()
        chunks = [BareRecord(_chunk(response), response.response_id.encode()) for response in responses]
        async with AsyncExitStack() as stack:
            loop = await stack.enter_async_context(child(_BARE, _told(kind, there, EVENTS, chunks)))
            if kind == "serve":
                await stack.enter_async_context(child(READERS, _readers(there, int(loop.said[1]))))
            await stack.enter_async_context(beside(there.feed(EVENTS, [response.delta for response in responses])))
            window = await steady_window(load, loop.pid)
        return await _cost(name, there, window, EVENTS)


def _readers(there: Stage, port: int) -> bytes:
    return Readers(port, there.load.streams, stream_body(there, stream=True)).line()


def stream_body(there: Stage, **extra: object) -> str:
    """A request that any gateway accepts, as JSON."""
    return json.dumps({"model": there.model, "input": "Tell me about rivers.", "store": False, **extra})


def gateway_port(there: Stage) -> int:
    """Where the one gateway listens."""
    return next(replica.port for replica in there.mesh.replicas if replica.port is not None)


def _chunk(response: Synthetic) -> bytes:
    """One token as the gateway writes it: an event in an HTTP chunk."""
    place = {"item_id": "msg_" + response.response_id.removeprefix("resp_"), "output_index": 0, "content_index": 0}
    kind = "response.output_text.delta"
    data = {"type": kind, "sequence_number": 100, **place, "delta": PIECE, "logprobs": []}
    event = ClientEvent(kind, 100, msgspec.json.encode(data)).sse()
    return b"%x\r\n%b\r\n" % (len(event), event)


# -- all -------------------------------------------------------------------------------------------------------

COMPONENTS: dict[str, Callable[[Broker, TokenLoad], Coroutine[None, None, Measured]]] = {
    "worker": worker,
    "owner": owner,
    "owner-default": owner_of_default_policy,
    "gateway": gateway,
}


async def _cost(name: str, there: Stage, window: Window, read: Topic, *, written: Topic | None = None) -> Cost:
    """What the window cost; tokens are those that `read` (of a worker: what it wrote) shows for it."""
    found = await counted(there.settings, read, window)
    answers = await counted(there.settings, written, window) if written is not None else None
    return Cost.of(name, window, found.tokens, answers.records if answers is not None else 0)


def _ready_made(record: Record) -> BareRecord:
    """The record as `shared.log` puts it on the wire."""
    return BareRecord(encode_value(record), record.subject.encode(), encode_headers(record, "inference-1"))


def _told(kind: Kind, there: Stage, topic: Topic, records: list[BareRecord], **more: Any) -> bytes:
    settings = there.settings
    reach = {
        "KAFKA_BOOTSTRAP_SERVERS": settings.bootstrap_servers,
        "partitions": settings.partitions,
        "fetch_max_wait_ms": settings.fetch_max_wait_ms,
    }
    name = topic_name(settings, topic)
    return msgspec.json.encode(BareLoop(kind, reach, asdict(there.load), name, records, **more))
