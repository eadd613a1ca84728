"""One partition's owner on a broker in memory, with its own writings coming back to it through the journal.

The bench plays the parts of the other services and of the consumer in `services.moderation.app`: it hands new records
to the owner, lets the living services beat, moves the one clock, ticks, and takes a broken partition over anew.
"""

from collections.abc import Sequence
from typing import Any

from services.moderation.app import heal
from services.moderation.backends.port import Backend
from services.moderation.judging import JudgePool
from services.moderation.judging.pool import Build
from services.moderation.meter import ModerationMeter
from services.moderation.owner.dispatcher import Dispatcher
from services.moderation.owner.outbox import Outbox
from services.moderation.owner.owner import Owner
from services.moderation.owner.screening import Screener
from services.moderation.owner.watch import WatchLimits
from services.moderation.policy import BackendSpec, Policy, parse_policy
from services.moderation.settings import ModerationSettings
from shared.heartbeats import Cluster
from shared.records import (
    Claimed,
    Finish,
    Heartbeat,
    Job,
    Journal,
    Message,
    ReplyAddress,
    Requested,
    ResponseSpec,
    Stop,
    TokenCandidate,
    TokenLogprob,
    Tokens,
)
from shared.telemetry.metrics import Metrics
from shared.topics import EVENTS, JOBS, JOURNAL, Service
from tests.support.fakes import START_MS, MemoryLog, MemoryReplayer, MemoryWriter, settle
from tests.support.policies import TEST_POLICY

PARTITION = 3
MODEL = "m"
GATEWAY = "gateway_1"
BEAT_MS = 200


def response_id(number: int, partition: int = PARTITION, created_ms: int = START_MS) -> str:
    """A valid `resp_` id that is the same in every run."""
    return f"resp_{created_ms:012x}7{partition:03x}8{number:015x}"


def requested(number: int = 1, text: str = "Hello", **changes: Any) -> Requested:
    """A foreground request of a user who waits at `GATEWAY`; `changes` go to the spec or to the record."""
    of_record = {name: changes.pop(name) for name in list(changes) if name in Requested.__struct_fields__}
    spec = ResponseSpec(**{"model": MODEL, "input": [Message(role="user", parts=[text])], **changes})
    fields: dict[str, Any] = {
        "response_id": response_id(number),
        "tenant": "acme",
        "spec": spec,
        "created_ms": START_MS,
        "deadline_ms": START_MS + 600_000,
        "input_tokens": 5,
        "reply_to": ReplyAddress(gateway=GATEWAY, partition=7),
    }
    return Requested(**(fields | of_record))


def worker_beat(worker: str = "worker_1", *, slots: int = 4, mailbox: int = 0, **changes: Any) -> Heartbeat:
    """A ready worker's sign of life."""
    fields: dict[str, Any] = {
        "service": "inference",
        "id": worker,
        "state": "ready",
        "seq": 1,
        "partitions": [mailbox],
        "slots_free": slots,
        "slots_total": slots,
        "model": MODEL,
    }
    return Heartbeat(**(fields | changes))


def gateway_beat(gateway: str = GATEWAY) -> Heartbeat:
    """A gateway's sign of life."""
    return Heartbeat(service="gateway", id=gateway, state="ready", seq=1)


def claimed(number: int = 1, claim: str = "claim_a", attempt: int = 1, worker: str = "worker_1") -> Claimed:
    """What a worker says before its first token."""
    return Claimed(response_id=response_id(number), claim=claim, attempt=attempt, worker=worker, mailbox=0)


def tokens(
    text: str,
    position: int = 0,
    *,
    number: int = 1,
    claim: str = "claim_a",
    finish: str | None = None,
    top: Sequence[str] | None = None,
) -> Tokens:
    """One token per character; with `top`, its log probability too, and those candidates beside it."""
    end = Finish(reason=finish, input_tokens=5) if finish is not None else None  # type: ignore[arg-type]
    return Tokens(
        response_id=response_id(number),
        claim=claim,
        position=position,
        ids=[ord(character) for character in text],
        pieces=list(text),
        logprobs=[logprob(letter, position + n, top) for n, letter in enumerate(text, 1)] if top is not None else [],
        finish=end,
    )


def logprob(token: str, end: int, top: Sequence[str] = ()) -> TokenLogprob:
    """A token that ends at `end`."""
    candidates = [TokenCandidate(token=text, logprob=-1.5) for text in top]
    return TokenLogprob(token=token, logprob=-0.5, bytes=list(token.encode()), end=end, top=candidates)


def _no_backends(name: str, spec: BackendSpec) -> Backend:
    raise AssertionError(f"the policy names a backend {name} ({spec.kind}), the bench was given none")


class KnownPolicies:
    """The policy that new responses are accepted under, and those that were `current` before."""

    def __init__(self, first: Policy) -> None:
        self.known = {first.name: first}
        self.current = first

    def replace(self, policy: Policy) -> None:
        """Accept new responses under this one."""
        self.known[policy.name] = self.current = policy

    async def named(self, name: str) -> Policy | None:
        return self.known.get(name)


class OwnerBench:
    """An owner of one partition. `log` may hold a past: what other owners wrote before this one. `build` makes the
    backends that the policy names."""

    def __init__(
        self,
        log: MemoryLog | None = None,
        *,
        service_id: str = "moderation_1",
        policy: str = TEST_POLICY,
        partition: int = PARTITION,
        generation: int = 1,
        build: Build = _no_backends,
        **settings: Any,
    ) -> None:
        self.log = log or MemoryLog()
        self.partition = partition
        self.generation = generation
        self.settings = ModerationSettings(**settings)
        self.writer = MemoryWriter(self.log, Service.MODERATION)
        self.replayer = MemoryReplayer(self.log, Service.MODERATION)
        self.cluster = Cluster(int(self.settings.silent_after_s * 1000))
        self.living: dict[str, Heartbeat] = {}
        self.commits: list[int] = []
        self.metrics = Metrics(Service.MODERATION)
        meter = ModerationMeter(self.metrics)
        outbox = Outbox(self.writer, meter)  # type: ignore[arg-type]
        dispatcher = Dispatcher(outbox, self.cluster, WatchLimits.of(self.settings), self.settings.max_waiting, meter)
        self.policies = KnownPolicies(parse_policy(policy))
        screener = Screener(self.policies, JudgePool(build, meter=meter), outbox, dispatcher, meter)
        self.owner = Owner(
            self.settings,
            service_id,
            screener,
            dispatcher,
            outbox,
            self.replayer,
            self.cluster,  # type: ignore[arg-type]
            meter,
        )
        self._position = 0

    # -- the services around it --------------------------------------------------------------------------------

    def hear(self, *beats: Heartbeat) -> None:
        """These services live from now on, and have just beaten; a later beat of the same id replaces it."""
        for beat in beats:
            self.living[beat.id] = beat
        self._beat()

    def silence(self, service_id: str) -> None:
        """This service does not beat any more."""
        del self.living[service_id]

    def _beat(self) -> None:
        for beat in self.living.values():
            self.cluster.apply(beat, self.log.now_ms)

    # -- what the service's wiring does ------------------------------------------------------------------------

    async def start(self, start: int = 0) -> None:
        """Take the partition over, folding from offset `start` on; a gateway is heard before anything is judged."""
        if not self.living:
            self.hear(gateway_beat())
        await self.owner.take_over({self.partition: (start, self.log.end(JOURNAL, self.partition))}, self.generation)
        self._position = start
        await self.pump()

    async def pump(self) -> None:
        """Hand the journal to the owner, one record at a time, until it has nothing to add."""
        await self._settle()
        while raws := self.log.read(JOURNAL, self.partition, self._position):
            self._position = raws[0].offset + 1
            await self.owner.on_records(raws[:1])
            await self._settle()

    async def _settle(self) -> None:
        """Whatever backends have answered by now is acted on."""
        await settle()
        while self.owner.judging and await self.owner.on_judgements():
            await settle()

    async def journal(self, *records: Journal) -> None:
        """Other services append to the journal."""
        for record in records:
            self.log.append(JOURNAL, record)
            await self.pump()

    async def together(self, *records: Journal) -> None:
        """As `journal`, but all records reach the owner in one batch."""
        for record in records:
            self.log.append(JOURNAL, record)
        raws = self.log.read(JOURNAL, self.partition, self._position)
        self._position += len(raws)
        await self.owner.on_records(raws)
        await self.pump()

    async def tick(self) -> list[int]:
        """What time alone decides; a broken partition is taken over anew, as the service does."""
        broken = await self.owner.tick()
        for number in broken:
            await heal(self.owner, self, number)  # type: ignore[arg-type]
        await self.pump()
        return broken

    def seek(self, number: int, offset: int) -> None:
        """The consumer's part of a heal: read on from here."""
        assert number == self.partition
        self._position = offset

    async def end_offset(self, number: int) -> int:
        """Asking the broker takes a while, in which the owner is handed what comes, as ever."""
        await self.pump()
        return self.log.end(JOURNAL, number)

    async def advance(self, duration_ms: int) -> None:
        """Let the mesh live for so long: the living beat, the owner ticks."""
        end_ms = self.log.now_ms + duration_ms
        while self.log.now_ms < end_ms:
            self.log.now_ms = min(end_ms, self.log.now_ms + BEAT_MS)
            self._beat()
            await self.tick()

    # -- what it wrote -----------------------------------------------------------------------------------------

    def events(self, number: int | None = None) -> list[Any]:
        """The public log, of one response or of all."""
        records = self.log.of(EVENTS)
        return [r for r in records if number is None or r.response_id == response_id(number)]

    def kinds(self, number: int | None = None) -> list[str]:
        """The public log's record types."""
        return [type(record).__name__ for record in self.events(number)]

    @property
    def jobs(self) -> list[Job]:
        return self.log.of(JOBS, Job)

    @property
    def stops(self) -> list[Stop]:
        return self.log.of(JOBS, Stop)
