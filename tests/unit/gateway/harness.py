"""A whole gateway over a mesh in memory, on a real socket: what clients see, without a broker."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from openai import AsyncOpenAI

from services.gateway.admission import Admission
from services.gateway.api.parts import Parts
from services.gateway.app import make_app
from services.gateway.auth import ApiKeys, Authenticator, KeyEntry, LoopbackOnly
from services.gateway.cancellation import Cancellation
from services.gateway.conversations import Conversations
from services.gateway.deletion import Deletion
from services.gateway.drain import Drain
from services.gateway.fanout import Fanout
from services.gateway.history import History
from services.gateway.ingress import Ingress, Introduction, Repeats
from services.gateway.ledger import Ledger, RateLimits
from services.gateway.lookup import Lookup
from services.gateway.meter import GatewayMeter
from services.gateway.moderations import Moderations
from services.gateway.replies import Replies
from services.gateway.settings import GatewaySettings
from services.gateway.web.server import Server, bind
from shared.heartbeats import Cluster
from shared.ids import parse_response_id
from shared.records import Cancel, Completed, ContextRequested, Delete, Heartbeat, Query, Requested
from shared.telemetry.metrics import Metrics
from shared.topics import LEDGER, Service, Topic
from tests.unit.gateway.fakes import FakeLog, FakePresence, FakeWriter, LedgerLog
from tests.unit.gateway.logs import Log

MODEL = "m"
PARTITIONS = 4
Script = Callable[["Mesh", Requested], list[Any]]


class FakeTokenizer:
    """Counts words."""

    model_id = MODEL
    context_window = 64

    def count(self, messages: Any, /) -> int:
        return sum(len(message["content"].split()) for message in messages)


def log_of(request: Requested) -> Log:
    return Log(parse_response_id(request.response_id), request.tenant)


def accept(request: Requested) -> Any:
    """The `accepted` that moderation would write."""
    accepted = log_of(request).accepted()
    return type(accepted)(
        **{name: getattr(accepted, name) for name in accepted.__struct_fields__ if name != "spec"}, spec=request.spec
    )


def say(*pieces: str, kind: type[Any] = Completed, **fields: Any) -> Script:
    """A moderation and a model that answer at once."""

    def script(_: "Mesh", request: Requested) -> list[Any]:
        log, position, records = log_of(request), 0, [accept(request)]
        for piece in pieces:
            records.append(log.delta(position, piece))
            position += len(piece)
        return [*records, log.terminal(kind, "".join(pieces), **fields)]

    return script


def only_accept(_: "Mesh", request: Requested) -> list[Any]:
    return [accept(request)]


def cluster() -> Cluster:
    """One worker with many slots and one owner of everything."""
    made = Cluster(1000)
    beats = [
        Heartbeat(
            service="inference", id="i", state="ready", seq=1, model=MODEL, context_window=64, slots_free=64,
            slots_total=64,
        ),
        Heartbeat(service="moderation", id="o", state="ready", seq=1, partitions=list(range(PARTITIONS))),
    ]  # fmt: skip
    for beat in beats:
        made.apply(beat, 1000)
    return made


@dataclass
class Mesh:
    """What stands behind the gateway: `script` says which events follow a request."""

    script: Script = field(default_factory=lambda: say("Hello", " world"))
    log: FakeLog = field(default_factory=FakeLog)
    writer: FakeWriter = field(default_factory=FakeWriter)
    presence: FakePresence = field(default_factory=FakePresence)
    on_query: Callable[[Any], Any] = lambda query: None
    on_cancel: Callable[[Cancel], list[Any]] = lambda cancel: []
    on_delete: Callable[[Delete], list[Any]] = lambda delete: []
    cluster: Cluster = field(default_factory=cluster)
    url: str = ""
    ledger_log: LedgerLog = field(default_factory=LedgerLog)
    ledger: Any = None
    repeats: Any = None
    replies: Any = None
    fanout: Any = None
    admission: Any = None
    drain: Any = None
    server: Any = None
    metrics: Metrics = field(default_factory=lambda: Metrics(Service.GATEWAY))

    def appended(self, _: Topic, record: Any) -> None:
        loop = asyncio.get_running_loop()
        if isinstance(record, LEDGER.record_types):
            self.ledger_log.append(record)
        if isinstance(record, ContextRequested):
            record = record.request
        if isinstance(record, Cancel):
            loop.call_soon(self.publish, self.on_cancel(record))
        if isinstance(record, Delete):
            loop.call_soon(self.publish, self.on_delete(record))
        if isinstance(record, Requested):
            loop.call_soon(self.publish, self.script(self, record))
        if isinstance(record, Query) and (reply := self.on_query(record)) is not None:
            loop.call_soon(self.replies.deliver, reply)

    def publish(self, records: list[Any]) -> None:
        for record in records:
            self.log.append(parse_response_id(record.response_id).partition, record)

    def client(self, key: str = "sk-a") -> AsyncOpenAI:
        return AsyncOpenAI(base_url=self.url, api_key=key, max_retries=0, timeout=10)

    @property
    def requests(self) -> list[Requested]:
        return [*self.writer.of(Requested), *(c.request for c in self.writer.of(ContextRequested))]


@asynccontextmanager
async def gateway(
    mesh: Mesh, *, keys: bool = False, limits: RateLimits | None = None, **settings: Any
) -> AsyncIterator[Mesh]:
    """Serve on a free port."""
    options = GatewaySettings(PORT=0, partitions=PARTITIONS, **settings)
    authenticator: Authenticator = LoopbackOnly()
    if keys:
        authenticator = ApiKeys({"sk-a": KeyEntry(tenant="acme"), "sk-b": KeyEntry(tenant="beta")})
    fanout = Fanout(
        "gateway-1",
        PARTITIONS,
        make_tail=mesh.log.tail,
        replay=mesh.log.replay,
        presence=mesh.presence,
        put_aside=lambda record, error: None,
        buffer_bytes=options.buffer_bytes,
    )
    await fanout.rehome(())
    mesh.replies = Replies(options, "gateway-1")
    mesh.writer.on_append = mesh.appended
    writer: Any = mesh.writer
    tokenizer: Any = FakeTokenizer()
    presence: Any = mesh.presence
    seen = mesh.cluster
    mesh.fanout, mesh.drain = fanout, Drain()
    admission = mesh.admission = Admission(
        seen,
        MODEL,
        max_in_flight=options.max_in_flight,
        max_waiting=options.max_waiting,
        settle_s=2 * options.heartbeat_ms / 1000,
        blind_after_s=math.inf,  # one beat is all that this mesh ever sends, however slow the machine
    )
    ledger = mesh.ledger = Ledger(options, "gateway-1", writer, limits or RateLimits(), mesh.ledger_log)
    await ledger.start()
    following = asyncio.create_task(ledger.run())
    history = History(writer, mesh.replies, options.query_timeout_s)
    introduction = Introduction(admission, writer, mesh.replies, presence)
    repeats = mesh.repeats = Repeats(ledger, fanout, writer, seen, options.silent_after_s)
    ingress = Ingress(options, admission, tokenizer, seen, fanout, introduction, ledger, repeats, history)
    lookup = Lookup(options, fanout, mesh.log.replay, history)
    cancellation = Cancellation(lookup, writer, options.cancel_timeout_s)
    parts = Parts(
        settings=options,
        authenticator=authenticator,
        admission=admission,
        drain=mesh.drain,
        ingress=ingress,
        ledger=ledger,
        lookup=lookup,
        cancellation=cancellation,
        deletion=Deletion(lookup, cancellation, history, writer, options.cancel_timeout_s),
        history=history,
        conversations=Conversations(history, ledger),
        moderations=Moderations(
            writer, mesh.replies, ledger, seen, options.moderation_timeout_s, options.max_moderations
        ),
        fanout=fanout,
        cluster=seen,
        tokenizer=tokenizer,
        meter=GatewayMeter(mesh.metrics),
    )
    with bind(options) as bound:
        mesh.server = Server(make_app(parts), options, bound)
        mesh.url = f"http://127.0.0.1:{bound.getsockname()[1]}/v1"
        serving = asyncio.create_task(mesh.server.run_until_exit())
        async with asyncio.timeout(5):
            while not mesh.server.started:
                await asyncio.sleep(0.005)
        try:
            yield mesh
        finally:
            if not mesh.drain.begun.done():
                await mesh.drain.run(0, asyncio.Event())
            await mesh.server.leave(serving)
            serving.result()
            await ingress.stop()
            following.cancel()
            await asyncio.gather(following, return_exceptions=True)
            await fanout.stop()
            await mesh.replies.stop()
