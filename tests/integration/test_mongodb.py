"""The whole mesh with its history in MongoDB; the server goes away and comes back."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator

import openai
import pytest
from openai import AsyncOpenAI

from deploy.brokers import Broker
from deploy.stores import StoreServer
from services.history.stores.mongo import MongoStore
from shared.topics import Service
from tests.integration.conftest import MODEL
from tests.support.mesh import Mesh

TENANT = "local"  # of everybody, where there are no keys

pytestmark = pytest.mark.any_broker


@pytest.fixture(scope="module")
def server(mongodb: StoreServer) -> Iterator[StoreServer]:
    """One that these tests may kill."""
    if not mongodb.controllable:
        pytest.skip("the server at MONGODB_URL is not ours to kill")
    with type(mongodb)() as own:
        yield own


@pytest.fixture(scope="module")
async def mesh(broker: Broker, server: StoreServer, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Mesh]:
    env = {
        "MONGODB_URL": server.url(f"t{uuid.uuid4().hex[:12]}"),
        "CHATMESH_ENGINE": "scripted",
        "CHATMESH_SCRIPT_ECHO": "true",
        "CHATMESH_SCRIPT_TOKENS_PER_S": "400",
    }
    async with Mesh(broker, tmp_path_factory.mktemp("mongodb"), env=env) as running:
        yield running


@pytest.fixture
async def client(mesh: Mesh) -> AsyncIterator[AsyncOpenAI]:
    async with AsyncOpenAI(base_url=mesh.url, api_key="none", max_retries=0, timeout=60) as made:
        yield made


async def texts(client: AsyncOpenAI, conversation: str) -> list[str]:
    """The texts of all items, oldest first, two a page."""
    pages = client.conversations.items.list(conversation, order="asc", limit=2)
    return ["".join(part.text for part in item.content) async for item in pages]  # type: ignore[union-attr,misc]


async def until_stored(mesh: Mesh, response_id: str) -> None:
    """In the store itself: to a client the log would tell it too."""
    store = MongoStore(mesh.env["MONGODB_URL"])
    async with asyncio.timeout(20):
        while await store_has(store, response_id) is False:
            await asyncio.sleep(0.05)
    await store.close()


async def store_has(store: MongoStore, response_id: str) -> bool:
    await store.open()
    return await store.get(TENANT, response_id) is not None


async def test_a_chain_and_what_is_deleted_of_it(client: AsyncOpenAI) -> None:
    first = await client.responses.create(model=MODEL, input="one")
    second = await client.responses.create(model=MODEL, input="two", previous_response_id=first.id)
    assert second.output_text == "two"
    assert second.usage is not None and first.usage is not None
    assert second.usage.input_tokens > first.usage.input_tokens + first.usage.output_tokens
    await client.responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        await client.responses.retrieve(first.id)
    with pytest.raises(openai.BadRequestError):
        await client.responses.create(model=MODEL, input="three", previous_response_id=first.id)


async def test_a_conversation_of_two_turns(client: AsyncOpenAI) -> None:
    begun = await client.conversations.create(
        items=[{"type": "message", "role": "user", "content": "zero"}], metadata={"a.b": "$c"}
    )
    for text in ("one", "two"):
        answer = await client.responses.create(model=MODEL, input=text, conversation=begun.id)
        assert answer.output_text == text
    assert await texts(client, begun.id) == ["zero", "one", "one", "two", "two"]
    assert (await client.conversations.retrieve(begun.id)).metadata == {"a.b": "$c"}
    await client.conversations.delete(begun.id)
    with pytest.raises(openai.NotFoundError):
        await client.conversations.items.list(begun.id)


async def test_a_server_that_dies_takes_nothing_with_it(mesh: Mesh, client: AsyncOpenAI, server: StoreServer) -> None:
    conversation = (await client.conversations.create()).id
    await client.responses.create(model=MODEL, input="before", conversation=conversation)
    await asyncio.to_thread(server.kill)
    alone = await client.responses.create(model=MODEL, input="without a past")
    assert alone.output_text == "without a past", "who needs no store goes on"
    waiting = asyncio.create_task(client.responses.create(model=MODEL, input="after", conversation=conversation))
    await asyncio.to_thread(server.restart)
    assert (await waiting).output_text == "after"
    assert await texts(client, conversation) == ["before", "before", "after", "after"]
    await until_stored(mesh, alone.id)


async def test_its_log_says_which_store_answers(mesh: Mesh, client: AsyncOpenAI) -> None:
    for replica in mesh.of(Service.HISTORY):
        assert f"answers from {mesh.env['MONGODB_URL']}" in replica.process.log_text()
