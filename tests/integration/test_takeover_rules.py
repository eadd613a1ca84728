"""Takeovers that processes cannot be killed into: what the dead worker had said already is written by the test.

A ghost is a worker of the test's own: it beats, takes jobs, appends what it is told to, and falls silent. The real
worker starts then, and must go on by the rules of DESIGN 5.
"""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any, Self

import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.chat import load_chat_tokenizer
from shared.heartbeats import Heart
from shared.log import LogWriter, Tail, decode
from shared.records import Claimed, Job, Released, Tokens
from shared.topics import JOBS, JOURNAL, Service
from tests.integration.conftest import MODEL
from tests.support.logs import journal_of
from tests.support.mesh import STOP_S, Mesh

TOKENIZER = load_chat_tokenizer("")
EOS = min(TOKENIZER.eos_ids)
TEXT = "Grüße from the other side 🦜"
IDS = TOKENIZER.encode_text(TEXT)
INSIDE_THE_PARROT = len(IDS) - 1
SCRIPTED = {"CHATMESH_ENGINE": "scripted", "CHATMESH_SCRIPT_TOKENS_PER_S": "50"}
JOB_TIMEOUT_S = 30.0


class Ghost:
    """Takes `slots` jobs, claims them, says what `claim` and `say` are told."""

    def __init__(self, mesh: Mesh, slots: int) -> None:
        settings = mesh.settings
        self._mailboxes = range(settings.partitions)
        self._heart = Heart(settings, Service.INFERENCE, "ghost")
        self._writer = LogWriter(settings, Service.INFERENCE, "ghost")
        self._tail = Tail(settings, Service.INFERENCE, JOBS)
        self._slots = slots

    async def __aenter__(self) -> Self:
        await self._writer.start()
        await self._tail.start(dict.fromkeys(self._mailboxes, 0))
        self._heart.start()
        await self._heart.announce(
            10,
            state="ready",
            model=MODEL,
            context_window=TOKENIZER.context_window,
            slots_free=self._slots,
            slots_total=self._slots,
            partitions=list(self._mailboxes),
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Falls silent."""
        await asyncio.to_thread(self._heart.stop)
        await self._tail.stop()
        await self._writer.stop()

    async def jobs(self) -> dict[str, Job]:
        """As many as there are slots, by the user's words; then it has no slot any more."""
        found: dict[str, Job] = {}
        async with asyncio.timeout(JOB_TIMEOUT_S):
            async for batch in self._tail.batches():
                for envelope in (decode(JOBS, record) for record in batch):
                    if isinstance(envelope.record, Job):
                        found[envelope.record.prompt[-1].text] = envelope.record
                        await self._append(envelope.record, Claimed, attempt=1, worker="ghost", mailbox=0)
                if len(found) == self._slots:
                    break
        await self._heart.announce(10, slots_free=0, claims=[_claim_of(job) for job in found.values()])
        return found

    async def say(self, job: Job, ids: list[int], position: int = 0) -> None:
        """Tokens without a finish, as if it died before it could say that this was all."""
        decoder = TOKENIZER.decode_stream()
        pieces = ["" if token == EOS else decoder.push(token) for token in ids]
        await self._append(job, Tokens, position=position, ids=ids, pieces=pieces)

    async def _append(self, job: Job, kind: type[Any], **fields: Any) -> None:
        await self._writer.append(JOURNAL, kind(response_id=job.response_id, claim=_claim_of(job), **fields))


def _claim_of(job: Job) -> str:
    return f"claim_ghost_{job.response_id[-8:]}"


@dataclass
class Told:
    """What a client saw of one stream."""

    text: str = ""
    numbers: list[int] = field(default_factory=list)
    last: Any = None


async def listen(client: AsyncOpenAI, words: str, limit: int) -> Told:
    told = Told()
    async for event in await client.responses.create(model=MODEL, input=words, max_output_tokens=limit, stream=True):
        told.numbers.append(event.sequence_number)
        told.text += event.delta if event.type == "response.output_text.delta" else ""
        told.last = event
    return told


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """One of each, and never more than one real worker."""
    env = {**SCRIPTED, "CHATMESH_SCRIPT_POISON": "hemlock"}
    async with Mesh(broker, tmp_path_factory.mktemp("rules"), env=env) as running:
        yield running


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.url, api_key="local", max_retries=0, timeout=60) as made:
        yield made


@pytest.fixture
async def without_worker(mesh: Mesh) -> None:
    """The real worker has left; the test starts the next one."""
    (worker,) = mesh.of(Service.INFERENCE)
    await asyncio.to_thread(worker.process.stop, STOP_S)
    mesh.retire(worker)


@pytest.mark.usefixtures("without_worker")
async def test_what_a_dead_worker_left_unsaid_is_said_once(mesh: Mesh, client: AsyncOpenAI) -> None:
    """It had said everything but the finish; it stopped inside a character; it left a gap."""
    limits = {"ended": 50, "at the limit": len(IDS), "torn": 40, "with a gap": 40}
    async with Ghost(mesh, slots=len(limits)) as ghost:
        await mesh.wait_ready()
        listening = {words: asyncio.create_task(listen(client, words, limit)) for words, limit in limits.items()}
        jobs = await ghost.jobs()
        await ghost.say(jobs["ended"], [*IDS, EOS])
        await ghost.say(jobs["at the limit"], IDS)
        await ghost.say(jobs["torn"], IDS[:INSIDE_THE_PARROT])
        await ghost.say(jobs["with a gap"], IDS[:3])
        await ghost.say(jobs["with a gap"], IDS[5:], position=5)
    mesh.add(Service.INFERENCE)
    told = {words: await task for words, task in listening.items()}
    successors = {words: await said_by_successor(mesh, job) for words, job in jobs.items()}
    moderation_log = mesh.of(Service.MODERATION)[0].process.log_text()

    for words, seen in told.items():
        assert seen.numbers == list(range(len(seen.numbers))), words
        assert seen.text == seen.last.response.output_text, words
    assert (told["ended"].text, told["ended"].last.type) == (TEXT, "response.completed")
    assert (told["at the limit"].text, told["at the limit"].last.type) == (TEXT, "response.incomplete")
    assert successors["ended"] == [(len(IDS) + 1, [])]
    assert successors["at the limit"] == [(len(IDS), [])]
    for words, position in {"torn": INSIDE_THE_PARROT, "with a gap": 3}.items():
        assert successors[words][0][0] == position, words
        assert told[words].text.startswith(TOKENIZER.decode(IDS[:position]).rstrip("\ufffd")), words
        assert told[words].last.response.usage.output_tokens == 40, words
    assert f"{jobs['with a gap'].response_id}: the claim is void" in moderation_log


async def said_by_successor(mesh: Mesh, job: Job) -> list[tuple[int, list[int]]]:
    """Position and ids of every record that counts of the real worker; the first claim behind the ghost's owns it."""
    journal = await journal_of(mesh, job.response_id)
    owner = next(r for r in journal if isinstance(r, Claimed) and r.attempt > 1)
    assert owner.worker == mesh.of(Service.INFERENCE)[0].id
    return [(r.position, r.ids) for r in journal if isinstance(r, Tokens) and r.claim == owner.claim]


async def test_an_engine_that_dies_is_restarted_and_its_responses_go_on(mesh: Mesh, client: AsyncOpenAI) -> None:
    """The only worker: what it released it takes over itself. The prompt that kills it ends as failed."""
    calm = await listen(client, "Go on.", 120)
    innocent = asyncio.create_task(listen(client, "Go on.", 120))
    poisoned = await listen(client, "Drink the hemlock.", 120)
    told = await innocent
    journal = await journal_of(mesh, told.last.response.id)
    (worker,) = mesh.of(Service.INFERENCE)
    assert worker.process.running

    assert poisoned.last.type == "response.failed"
    assert told.text == calm.text == told.last.response.output_text
    assert told.numbers == list(range(len(told.numbers)))
    claims = [r.worker for r in journal if isinstance(r, Claimed)]
    assert claims == [worker.id] * len(claims)
    assert len(claims) > 1
    assert all("the script failed" in r.reason for r in journal if isinstance(r, Released))
