"""Conversations through the whole mesh: one turn at a time, appended once and forgotten whole, whoever dies.

Two replicas of every service, the official SDK at both gateways; each answer repeats its question.
"""

import asyncio
import contextlib
import signal
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from itertools import pairwise
from typing import Any

import openai
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from shared.ids import parse_response_id
from shared.records import (
    TERMINALS,
    Accepted,
    Claimed,
    ConversationCreated,
    ConversationDeleted,
    ConversationUpdated,
    Requested,
)
from shared.topics import CONVERSATIONS, EVENTS, JOURNAL, Service
from tests.integration.conftest import MODEL
from tests.support.logs import cluster_of, journal_of, records, sub_log
from tests.support.mesh import Mesh, Replica
from tests.support.policies import REFUSE_PHRASE, TEST_POLICY

GRACE_S = 2.0
WAIT_S = 8.0
"""So long a request waits for its conversation."""
STORED_WITHIN_S = 20.0
KEYS = "sk-ours: {tenant: ours}\nsk-theirs: {tenant: theirs}\n"
LONG = ("and on " * 60).strip()
"""Said again in 1.5 s."""
ENDLESS = ("and on " * 1200).strip()


@pytest.fixture(scope="module")
async def mesh(broker: Broker, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    folder = tmp_path_factory.mktemp("conversations")
    (folder / "keys.yaml").write_text(KEYS)
    (folder / "policy.yaml").write_text(TEST_POLICY)
    env = {
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "80",
        "CHATMESH_FOREGROUND_GRACE_S": str(GRACE_S),
        "CHATMESH_PARENT_WAIT_S": str(WAIT_S),
        "CHATMESH_API_KEYS": str(folder / "keys.yaml"),
        "CHATMESH_POLICY": str(folder / "policy.yaml"),
    }
    async with Mesh(broker, folder, env=env, counts=dict.fromkeys(Service, 2)) as running:
        yield running


@pytest.fixture
async def clients(mesh: Mesh) -> AsyncIterator[list[AsyncOpenAI]]:
    """One client of the same tenant per gateway."""
    async with contextlib.AsyncExitStack() as stack:
        yield [await stack.enter_async_context(sdk(url)) for url in mesh.urls()]


def sdk(url: str, key: str = "sk-ours") -> AsyncOpenAI:
    return AsyncOpenAI(base_url=url, api_key=key, max_retries=0, timeout=60, _strict_response_validation=True)


async def say(client: AsyncOpenAI, conversation: str, text: str, **fields: Any) -> Any:
    return await client.responses.create(model=MODEL, input=text, conversation=conversation, **fields)


async def said(client: AsyncOpenAI, conversation: str) -> list[str]:
    """The texts of all items, oldest first."""
    pages = client.conversations.items.list(conversation, order="asc", limit=100)
    return ["".join(part.text for part in item.content) async for item in pages]  # type: ignore[union-attr,misc]


async def heal(mesh: Mesh, gone: Replica) -> None:
    """Another replica instead of one that ended."""
    mesh.retire(gone)
    mesh.add(gone.service)
    await mesh.wait_ready(service=gone.service)


# -- one turn at a time ------------------------------------------------------------------------------------------------


async def test_requests_at_once_at_both_gateways_never_interleave(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    conversation = (await clients[0].conversations.create()).id
    texts = [f"caller {n} says so" for n in range(5)]
    answers = await asyncio.gather(
        *(say(clients[n % 2], conversation, text, store=n % 3 > 0) for n, text in enumerate(texts))
    )
    assert [answer.output_text for answer in answers] == texts
    spans = sorted([await span(mesh, answer.id) for answer in answers])
    assert all(ended <= began for (_, ended, _), (began, _, _) in pairwise(spans)), spans
    in_turn = [answers[[a.id for a in answers].index(response_id)].output_text for _, _, response_id in spans]
    assert await said(clients[1], conversation) == [text for text in in_turn for _ in range(2)]
    for number, (_, _, response_id) in enumerate(spans):
        [request] = {r.response_id: r for r in await journal_of(mesh, response_id) if isinstance(r, Requested)}.values()
        assert [m.text for m in request.context] == [text for text in in_turn[:number] for _ in range(2)]


async def span(mesh: Mesh, response_id: str) -> tuple[int, int, str]:
    """When the response entered the journal, when its end was public (ms of the log), and its id."""
    journal, events = await sub_log(mesh, JOURNAL, response_id), await sub_log(mesh, EVENTS, response_id)
    began = next(e.timestamp_ms for e in journal if isinstance(e.record, Requested))
    ended = next(e.timestamp_ms for e in events if isinstance(e.record, TERMINALS))
    return began, ended, response_id


async def test_who_left_in_the_middle_goes_on_after_the_grace(clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    conversation = (await here.conversations.create()).id
    async with await say(here, conversation, ENDLESS, stream=True) as stream:
        await anext(event async for event in stream if event.type == "response.output_text.delta")
    answer = await say(there, conversation, "I am back.")
    assert answer.output_text == "I am back."
    question, cut_short, *rest = await said(there, conversation)
    assert (question, rest) == (ENDLESS, ["I am back."] * 2)
    assert ENDLESS.startswith(cut_short)


async def test_who_waits_too_long_is_told_so_and_the_others_go_on(clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    busy, free = [(await here.conversations.create()).id for _ in range(2)]
    holder = await say(here, busy, ENDLESS, background=True)
    refused = asyncio.create_task(say(there, busy, "Me too."))
    assert (await say(there, free, "Not me.")).output_text == "Not me."
    assert not refused.done(), "it waits, and nobody with it"
    with pytest.raises(openai.BadRequestError) as caught:
        await refused
    assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")
    await there.responses.cancel(holder.id)
    assert (await say(there, busy, "Now.")).output_text == "Now."


async def test_refused_input_holds_nothing(clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    conversation = (await here.conversations.create()).id
    for number in range(3):
        with pytest.raises(openai.BadRequestError, match="content policy"):
            await say(here, conversation, f"the {REFUSE_PHRASE}")
        assert (await asyncio.wait_for(say(there, conversation, f"{number}"), WAIT_S)).output_text == f"{number}"
    assert await said(there, conversation) == [f"{n}" for n in range(3) for _ in range(2)]


# -- deaths ------------------------------------------------------------------------------------------------------------


async def worker_of(mesh: Mesh, response_id: str) -> Replica:
    claims = [record for record in await journal_of(mesh, response_id) if isinstance(record, Claimed)]
    return next(r for r in mesh.of(Service.INFERENCE) if r.id == claims[-1].worker)


async def owner_of(mesh: Mesh, response_id: str) -> Replica:
    partition = parse_response_id(response_id).partition
    members = (await cluster_of(mesh)).alive(Service.MODERATION)
    owner = next(m for m in members if partition in m.beat.partitions)
    return next(r for r in mesh.of(Service.MODERATION) if r.id == owner.beat.id)


async def the_gateway(mesh: Mesh, _: str) -> Replica:
    return mesh.of(Service.GATEWAY)[0]


async def any_history(mesh: Mesh, _: str) -> Replica:
    return mesh.of(Service.HISTORY)[0]


Victim = Callable[[Mesh, str], Awaitable[Replica]]
VICTIMS: Mapping[str, Victim] = {
    "worker": worker_of,
    "owner": owner_of,
    "gateway": the_gateway,
    "history": any_history,
}


@pytest.mark.parametrize("victim", VICTIMS.values(), ids=VICTIMS)
async def test_kill_9_in_the_middle_of_a_turn_appends_it_once_and_frees_the_conversation(
    mesh: Mesh, clients: list[AsyncOpenAI], victim: Victim
) -> None:
    here, there = clients
    conversation = (await here.conversations.create()).id
    async with struck_by(mesh, victim) as strike:
        events = await read_through(here, there, conversation, strike)
        text = "".join(event.delta for event in events if event.type == "response.output_text.delta")
        assert text == events[-1].response.output_text == LONG
        heard = (await say(there, conversation, "And then?")).output_text
        assert await said(there, conversation) == [LONG, LONG, heard, heard]


@contextlib.asynccontextmanager
async def struck_by(mesh: Mesh, victim: Victim) -> AsyncIterator[Callable[[str], Awaitable[None]]]:
    """Yields what kills the response's `victim`; behind the block there is another instead."""
    struck: list[Replica] = []

    async def strike(response_id: str) -> None:
        struck.append(await victim(mesh, response_id))
        struck[0].process.signal(signal.SIGKILL)

    try:
        yield strike
    finally:
        for replica in struck:
            await heal(mesh, replica)
    assert struck, "nobody was killed"


async def read_through(
    here: AsyncOpenAI, there: AsyncOpenAI, conversation: str, strike: Callable[[str], Awaitable[None]]
) -> list[Any]:
    """All events of a turn during which `strike` is called; a broken stream is read on at the other gateway."""
    events: list[Any] = []
    with contextlib.suppress(openai.APIConnectionError, openai.APIError):
        async for event in await say(here, conversation, LONG, stream=True):
            events.append(event)
            if event.type == "response.output_text.delta" and not any(e.type == event.type for e in events[:-1]):
                await strike(events[0].response.id)
    if events[-1].type != "response.completed":
        rest: Any = {"stream": True, "starting_after": events[-1].sequence_number}
        events += [event async for event in await there.responses.retrieve(events[0].response.id, **rest)]
    return events


# -- forgetting --------------------------------------------------------------------------------------------------------


def secret() -> str:
    return f"xylophone{uuid.uuid4().hex}"


def in_the_files(mesh: Mesh, word: str) -> list[str]:
    """The store's files that hold the word."""
    files = (mesh.folder / "data").glob("history.sqlite3*")
    return [file.name for file in files if word.encode() in file.read_bytes()]


async def until_in_the_files(mesh: Mesh, word: str) -> None:
    """The end of a response is public before it is stored."""
    async with asyncio.timeout(STORED_WITHIN_S):
        while not in_the_files(mesh, word):
            await asyncio.sleep(0.02)


async def assert_forgotten(mesh: Mesh, clients: list[AsyncOpenAI], response_id: str, word: str) -> None:
    for client in clients:
        for use in (
            client.responses.retrieve(response_id),
            client.responses.retrieve(response_id, stream=True),
            client.responses.delete(response_id),
            client.responses.input_items.list(response_id)._get_page(),
        ):
            with pytest.raises(openai.NotFoundError):
                await use
        with pytest.raises(openai.BadRequestError) as caught:
            await client.responses.create(model=MODEL, input="x", previous_response_id=response_id)
        assert caught.value.code == "previous_response_not_found"
    assert in_the_files(mesh, word) == []


async def reminded_of(mesh: Mesh, client: AsyncOpenAI, conversation: str) -> list[str]:
    """What the model is told of the conversation so far; this itself adds a turn."""
    answer = await say(client, conversation, "What did we say?")
    request = next(r for r in await journal_of(mesh, answer.id) if isinstance(r, Requested))
    return [message.text for message in request.context]


async def test_a_deleted_response_is_gone_everywhere(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    word = secret()
    conversation = (await here.conversations.create(items=[{"role": "user", "content": "Before."}])).id
    response = await say(here, conversation, word)
    await until_in_the_files(mesh, word)
    await there.responses.delete(response.id)
    await assert_forgotten(mesh, clients, response.id, word)
    assert await said(there, conversation) == ["Before."]
    assert await reminded_of(mesh, there, conversation) == ["Before."]


async def test_a_deleted_item_is_gone_everywhere_and_the_others_stay(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    here, there = clients
    word = secret()
    conversation = (await here.conversations.create()).id
    kept, response = await say(here, conversation, "Kept."), await say(here, conversation, word)
    question = (await here.conversations.items.list(conversation, order="desc", limit=2)).data[1]
    answer = (await here.conversations.items.list(conversation, order="desc", limit=1)).data[0]
    await there.conversations.items.delete(question.id, conversation_id=conversation)
    assert await said(here, conversation) == ["Kept.", "Kept.", word]
    await there.conversations.items.delete(answer.id, conversation_id=conversation)
    await until_gone(there, response.id)
    await assert_forgotten(mesh, clients, response.id, word)
    assert await reminded_of(mesh, here, conversation) == ["Kept.", "Kept."]
    assert (await there.responses.retrieve(kept.id)).output_text == "Kept."


@pytest.mark.parametrize("busy", [False, True], ids=["idle", "busy"])
async def test_a_deleted_conversation_is_gone_everywhere(mesh: Mesh, clients: list[AsyncOpenAI], busy: bool) -> None:
    here, there = clients
    word = secret()
    conversation = (await here.conversations.create(metadata={"topic": word})).id
    ended = await say(here, conversation, word)
    running = await say(here, conversation, f"{word} {LONG}", background=True, stream=True) if busy else None
    events = [await anext(aiter(running)) for _ in range(6)] if running is not None else []
    await until_in_the_files(mesh, word)
    await there.conversations.delete(conversation)
    assert in_the_files(mesh, word) == []
    await until_gone(there, ended.id)
    await assert_forgotten(mesh, clients, ended.id, word)
    for client in clients:
        with pytest.raises(openai.NotFoundError):
            await client.conversations.retrieve(conversation)
        with pytest.raises(openai.NotFoundError):
            await say(client, conversation, "x")
    if running is not None:
        events += [event async for event in running]
        assert events[-1].response.output_text == f"{word} {LONG}", "its reader is not cut off"
        await until_gone(there, events[0].response.id)
        await assert_forgotten(mesh, clients, events[0].response.id, word)


async def until_gone(client: AsyncOpenAI, response_id: str) -> None:
    async with asyncio.timeout(15):
        with contextlib.suppress(openai.NotFoundError):
            while True:
                await client.responses.retrieve(response_id)
                await asyncio.sleep(0.05)


# -- who listens -------------------------------------------------------------------------------------------------------


async def test_others_hear_of_all_that_becomes_of_a_conversation_and_nothing_of_what_was_said(
    mesh: Mesh, clients: list[AsyncOpenAI]
) -> None:
    here, there = clients
    word = secret()
    made = await here.conversations.create(items=[{"role": "user", "content": word}], metadata={"topic": word})
    first = (await here.conversations.items.list(made.id)).data[0]
    await there.conversations.update(made.id, metadata={"topic": f"{word}!"})
    added = await there.conversations.items.create(made.id, items=[{"role": "user", "content": word}])
    answer = await say(here, made.id, word)
    await until_told(mesh, answer.id)
    brought = [item.id async for item in here.conversations.items.list(made.id, order="asc")][2:]
    await here.conversations.items.delete(first.id, conversation_id=made.id)
    await there.conversations.delete(made.id)
    heard = {e.record.uid: e.record for e in await records(mesh, CONVERSATIONS) if e.record.subject == made.id}
    assert word not in repr(heard)
    created, *updates, deleted = heard.values()
    assert isinstance(created, ConversationCreated)
    assert (created.item_ids, created.tenant) == ([first.id], "ours")
    assert isinstance(deleted, ConversationDeleted)
    assert all(isinstance(update, ConversationUpdated) for update in updates)
    by_metadata, by_hand, by_response, erased = updates
    assert (by_metadata.change, by_metadata.item_ids) == ("metadata", [])
    assert (by_hand.change, by_hand.item_ids) == ("items_added", [added.data[0].id])
    assert (by_response.change, by_response.item_ids, by_response.operation) == ("items_added", brought, answer.id)
    assert (erased.change, erased.item_ids) == ("item_deleted", [first.id])


async def until_told(mesh: Mesh, response_id: str) -> None:
    """The recorder tells what a response brought into its conversation; whoever looks there finds it before."""
    async with asyncio.timeout(STORED_WITHIN_S):
        while not any(
            isinstance(e.record, ConversationUpdated) and e.record.operation == response_id
            for e in await records(mesh, CONVERSATIONS)
        ):
            await asyncio.sleep(0.05)


async def test_another_tenant_finds_nothing(mesh: Mesh, clients: list[AsyncOpenAI]) -> None:
    conversation = (await clients[0].conversations.create(items=[{"role": "user", "content": "Ours."}])).id
    item = (await clients[0].conversations.items.list(conversation)).data[0]
    async with sdk(mesh.url, "sk-theirs") as theirs:
        for use in (
            theirs.conversations.retrieve(conversation),
            theirs.conversations.update(conversation, metadata={}),
            theirs.conversations.delete(conversation),
            theirs.conversations.items.list(conversation)._get_page(),
            theirs.conversations.items.create(conversation, items=[{"role": "user", "content": "Mine!"}]),
            theirs.conversations.items.retrieve(item.id, conversation_id=conversation),
            theirs.conversations.items.delete(item.id, conversation_id=conversation),
            say(theirs, conversation, "Mine!"),
        ):
            with pytest.raises(openai.NotFoundError):
                await use
    assert await said(clients[1], conversation) == ["Ours."]
    events = await sub_log(mesh, EVENTS, (await say(clients[1], conversation, "Still ours.")).id)
    assert isinstance(events[0].record, Accepted)
