"""History alone on a real broker: what it stores, what it appends, and what it does while things break.

Two replicas share one SQLite file; the test plays the owner, the gateway and the client.
"""

import asyncio
from collections.abc import AsyncIterator
from typing import NoReturn

import pytest
from aiokafka import AIOKafkaConsumer
from faststream.kafka import KafkaBroker

from deploy.brokers import Broker
from services.history.settings import HistorySettings
from shared.control import Subscription
from shared.ids import new_id, now_ms
from shared.log import RawRecord
from shared.records import (
    Cancelled,
    CreateConversation,
    Deleted,
    EraseResponse,
    Failed,
    Incomplete,
    Rejected,
    Requested,
    ResponseErased,
    Usage,
)
from shared.topics import HISTORY_QUERIES, Service
from tests.support.history import HistoryProbe, a_query, about, locked
from tests.support.mesh import Mesh
from tests.unit.history.fakes import TENANT, accepted, an_id, asked, completed, turn

REPLICAS = 2


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    """Two replicas of history, nothing else."""
    async with Mesh(broker, tmp_path_factory.mktemp("history"), counts={Service.HISTORY: REPLICAS}) as made:
        yield made


@pytest.fixture
async def probe(mesh: Mesh) -> AsyncIterator[HistoryProbe]:
    async with HistoryProbe(mesh.settings, mesh.folder / "data" / "history.sqlite3") as made:
        yield made


def texts(answer: object) -> list[str]:
    assert isinstance(answer, Requested), answer
    return [message.text for message in answer.prompt()]


async def test_a_turn_is_stored_and_reminded_of(probe: HistoryProbe) -> None:
    first = an_id(1)
    await probe.tell(*turn(first, "one", "1"))
    await probe.until_stored(TENANT, [first])
    request = asked(first)
    await probe.ask(request)
    assert texts(await probe.answer(request)) == ["one", "1", "and then?"]


async def test_ones_own_last_turn_is_read_from_the_log_while_nothing_can_be_recorded(probe: HistoryProbe) -> None:
    ids = [an_id(n % 4) for n in range(12)]
    async with locked(probe.sqlite_file):
        for response_id in ids:
            request = asked(response_id)
            await probe.tell(*turn(response_id, "q", f"answer of {response_id}"))
            await probe.ask(request)
            assert texts(await probe.answer(request)) == ["q", f"answer of {response_id}", "and then?"]
        assert await probe.stored(TENANT, ids) == {}
    await probe.until_stored(TENANT, ids)


USAGE = Usage(input_tokens=3, output_tokens=1)


@pytest.mark.parametrize("how", ["incomplete", "cancelled"])
@pytest.mark.parametrize("where", ["store", "log"])
async def test_a_parent_that_ended_early_is_continued_from_what_was_said(
    probe: HistoryProbe, how: str, where: str
) -> None:
    parent = an_id(2)
    base = {"response_id": parent, "tenant": TENANT, "text": "half an ans", "usage": USAGE, "finished_ms": 1}
    end = Cancelled(**base) if how == "cancelled" else Incomplete(reason="max_output_tokens", **base)
    request = asked(parent)
    if where == "store":
        await probe.tell(accepted(parent, text="q"), end)
        await probe.until_stored(TENANT, [parent])
        await probe.ask(request)
        answer = await probe.answer(request)
    else:
        async with locked(probe.sqlite_file):
            await probe.tell(accepted(parent, text="q"), end)
            await probe.ask(request)
            answer = await probe.answer(request)
    assert texts(answer) == ["q", "half an ans", "and then?"]


@pytest.mark.parametrize("case", ["unknown", "foreign", "failed", "not stored"])
async def test_a_parent_that_cannot_be_continued_is_refused(probe: HistoryProbe, case: str) -> None:
    parent = an_id(0)
    base = {"response_id": parent, "tenant": TENANT, "text": "", "usage": USAGE, "finished_ms": 1}
    told = {
        "unknown": [],
        "foreign": turn(parent, "q", "secret", tenant="other"),
        "failed": [accepted(parent), Failed(code="server_error", message="m", **base)],
        "not stored": turn(parent, "q", "a", store=False),
    }[case]
    await probe.tell(*told)
    request = asked(parent)
    await probe.ask(request)
    answer = await probe.answer(request)
    assert isinstance(answer, Rejected)
    assert (answer.status, answer.code) == (400, "previous_response_not_found")
    assert "secret" not in answer.message


async def test_what_is_erased_is_forgotten_in_the_store_and_nobody_goes_on_from_it(probe: HistoryProbe) -> None:
    parent, child = an_id(1), an_id(2)
    await probe.tell(*turn(parent, "q", "secret"), *turn(child, "q", "a", parent))
    await probe.until_stored(TENANT, [parent, child])
    await probe.tell(Deleted(response_id=parent, tenant=TENANT))
    erasure = EraseResponse(
        correlation_id=new_id("query"), reply_to=a_query(parent).reply_to, tenant=TENANT, response_id=parent
    )
    await probe.ask(erasure)
    assert isinstance(await probe.answer(erasure), ResponseErased)
    for gone_on_from in (parent, child):
        request, query = asked(gone_on_from), a_query(parent)
        await probe.ask(request, query)
        for refused in (await probe.answer(request), await probe.answer(query)):
            assert isinstance(refused, Rejected), "neither it nor what had it as its context is gone on from"
            assert "secret" not in refused.message
    assert await probe.stored(TENANT, [parent, child]) == await probe.stored(TENANT, [child])


async def test_the_recorder_erases_by_itself_also_what_the_log_has_forgotten(probe: HistoryProbe) -> None:
    response_id, later = an_id(1), an_id(1)
    await probe.tell(*turn(response_id, "q", "a"))
    await probe.until_stored(TENANT, [response_id])
    await probe.tell(
        Deleted(response_id=response_id, tenant="other"), Deleted(response_id=response_id, tenant=TENANT),
        Deleted(response_id=response_id, tenant=TENANT), *turn(later, "q", "a"),
    )  # fmt: skip
    await probe.until_stored(TENANT, [later])
    assert await probe.stored(TENANT, [response_id]) == {}


async def test_a_parent_that_still_speaks_is_waited_for_without_holding_up_others(probe: HistoryProbe) -> None:
    speaking, ended = an_id(3), an_id(3)
    await probe.tell(accepted(speaking, text="q"), *turn(ended, "q", "a"))
    first, second = asked(speaking), asked(ended)
    await probe.ask(first)
    await probe.ask(second)
    assert texts(await probe.answer(second)) == ["q", "a", "and then?"]
    assert first.request.response_id not in probe.answers
    await probe.tell(completed(speaking, "at last"))
    assert texts(await probe.answer(first)) == ["q", "at last", "and then?"]


async def test_a_subscription_that_stands_still_is_taken_anew(mesh: Mesh, probe: HistoryProbe, broker: Broker) -> None:
    """Its fetcher dies, of which neither aiokafka nor FastStream says a word."""
    settings = HistorySettings(
        KAFKA_BOOTSTRAP_SERVERS=broker.bootstrap,
        namespace=mesh.namespace,
        partitions=mesh.partitions,
        session_timeout_ms=broker.capabilities.session_timeout_ms,
        fetch_max_wait_ms=broker.capabilities.fetch_max_wait_ms,
    )
    taken: asyncio.Queue[str] = asyncio.Queue()

    async def handle(record: RawRecord) -> None:
        await taken.put(record.key)

    control = KafkaBroker(broker.bootstrap, consumer_only=True, allow_auto_create_topics=False)
    subscription = Subscription(
        control,
        settings,
        Service.HISTORY,
        HISTORY_QUERIES,
        handle,
        max_in_flight=settings.max_in_flight,
        look_every_s=0.3,
        group="history.stalled",
    )
    await control.connect()
    await subscription.start()
    watching = asyncio.create_task(subscription.watch())
    try:
        first, second = a_query(an_id()), a_query(an_id())
        await probe.ask(first)
        while await asyncio.wait_for(taken.get(), 20) != first.subject:
            pass
        consumer = subscription.consumer
        assert consumer is not None
        await _kill_fetcher(consumer)
        await probe.ask(second)
        while await asyncio.wait_for(taken.get(), 30) != second.subject:
            pass
        assert subscription.heals >= 1
    finally:
        watching.cancel()
        await subscription.intake.close(1)
        await control.stop()


async def _kill_fetcher(consumer: AIOKafkaConsumer) -> None:
    def fail(_assignment: object) -> NoReturn:
        raise KeyError("what nobody foresaw")

    consumer._fetcher._get_actions_per_node = fail
    await asyncio.wait([consumer._fetcher._fetch_task])


async def test_a_request_delivered_again_after_its_response_ended_starts_nothing(
    mesh: Mesh, probe: HistoryProbe
) -> None:
    """It failed, so that the store knows of no answer: the public log tells, and the conversation is free again."""
    create = about(CreateConversation, new_id("conv"), created_ms=now_ms())
    await probe.ask(create)
    await probe.answer(create)
    request = asked(None, conversation=create.conversation_id, created_ms=now_ms() - 5_000)
    response_id = request.request.response_id
    await probe.ask(request)
    assert isinstance(await probe.answer(request), Requested)
    failed = Failed(
        response_id=response_id,
        tenant=TENANT,
        text="",
        usage=Usage(input_tokens=3, output_tokens=0),
        finished_ms=now_ms(),
        code="server_error",
        message="m",
    )
    await probe.tell(accepted(response_id, conversation=create.conversation_id), failed)
    await probe.ask(request)
    async with asyncio.timeout(10):
        while not any(f"{response_id} was accepted before" in r.process.log_text() for r in mesh.replicas):
            await asyncio.sleep(0.02)
    assert len(probe.answers[response_id]) == 1
    following = asked(None, conversation=create.conversation_id)
    await probe.ask(following)
    assert isinstance(await probe.answer(following), Requested)
