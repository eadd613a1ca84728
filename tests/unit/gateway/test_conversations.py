"""`/v1/conversations` as the official SDK sees it, over a history that keeps them in memory."""

from typing import Any

import httpx
import openai
import pytest
from openai import AsyncOpenAI
from openai._models import validate_type
from openai.types.conversations import Conversation, ConversationItem

from services.gateway.api import replies
from services.gateway.ledger import Limits, RateLimits
from shared.ids import now_ms
from shared.records import AddItems, CreateConversation, UpdateConversation
from tests.unit.gateway.harness import Mesh, gateway
from tests.unit.gateway.keeper import Keeper

UNKNOWN = "conv_01a1fdc4690670018e8a2c8c65ddcda7"
NO_ITEM = "msg_01a1fdc4690670018e8a2c8c65ddcda7"
SENT_BACK: Any = {
    "id": "msg_mine",
    "type": "message",
    "status": "incomplete",
    "role": "assistant",
    "content": [{"type": "output_text", "text": "Par", "annotations": [], "logprobs": []}],
}
ITEMS: Any = [
    {"role": "developer", "content": "Be brief."},
    {"role": "user", "content": [{"type": "input_text", "text": "Why"}, {"type": "input_text", "text": "?"}]},
    SENT_BACK,
]


@pytest.fixture
async def mesh() -> Any:
    async with gateway(Mesh(on_query=Keeper()), keys=True) as serving:
        yield serving


@pytest.fixture
async def client(mesh: Mesh) -> Any:
    async with mesh.client() as sdk:
        yield sdk


async def all_items(client: AsyncOpenAI, conversation_id: str, **page: Any) -> list[Any]:
    return [item async for item in client.conversations.items.list(conversation_id, **page)]


# -- conversations ---------------------------------------------------------------------------------------------------


async def test_a_conversation_from_its_begin_to_its_end(client: AsyncOpenAI) -> None:
    created = await client.conversations.create(metadata={"topic": "cats"})
    assert created.to_dict().keys() == {"id", "object", "created_at", "metadata"}
    assert (created.object, created.metadata) == ("conversation", {"topic": "cats"})
    assert abs(created.created_at - now_ms() / 1000) < 10
    validate_type(type_=Conversation, value=created.to_dict())
    replies.Conversation.model_validate(created.to_dict())
    assert await client.conversations.retrieve(created.id) == created
    updated = await client.conversations.update(created.id, metadata={"other": "dogs"})
    assert updated.to_dict() == {**created.to_dict(), "metadata": {"other": "dogs"}}
    assert (await client.conversations.update(created.id, metadata=None)).metadata == {}
    deleted = await client.conversations.delete(created.id)
    assert deleted.to_dict() == {"id": created.id, "object": "conversation.deleted", "deleted": True}
    for gone in (client.conversations.retrieve(created.id), client.conversations.delete(created.id)):
        with pytest.raises(openai.NotFoundError):
            await gone


async def test_it_may_begin_without_a_body() -> None:
    async with gateway(Mesh(on_query=Keeper())) as serving, httpx.AsyncClient() as http:
        created = await http.post(f"{serving.url}/conversations")
    assert (created.status_code, created.json()["metadata"]) == (200, {})


async def test_it_begins_with_items_under_names_of_their_own(client: AsyncOpenAI) -> None:
    created = await client.conversations.create(items=ITEMS)
    found = await all_items(client, created.id, order="asc")
    assert [item.role for item in found] == ["developer", "user", "assistant"]
    assert [[part.text for part in item.content] for item in found] == [["Be brief."], ["Why", "?"], ["Par"]]
    assert [item.status for item in found] == ["completed", "completed", "incomplete"]
    assert len({item.id for item in found} - {"msg_mine"}) == 3
    assert found[2].to_dict() == {**SENT_BACK, "id": found[2].id}
    for item in found:
        validate_type(type_=ConversationItem, value=item.to_dict())
        replies.ConversationItem.model_validate(item.to_dict())


# -- items -----------------------------------------------------------------------------------------------------------


async def test_items_are_added_read_and_deleted(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    added = await client.conversations.items.create(conversation.id, items=ITEMS)
    assert (added.first_id, added.last_id, added.has_more) == (added.data[0].id, added.data[2].id, False)
    replies.ConversationItemList.model_validate(added.to_dict())
    for item in added.data:
        assert item == await client.conversations.items.retrieve(item.id or "", conversation_id=conversation.id)
    left = await client.conversations.items.delete(added.data[0].id or "", conversation_id=conversation.id)
    assert left == conversation
    assert await all_items(client, conversation.id) == added.data[:0:-1]
    for use in (client.conversations.items.retrieve, client.conversations.items.delete):
        with pytest.raises(openai.NotFoundError) as caught:
            await use(added.data[0].id or "", conversation_id=conversation.id)
        assert (caught.value.code, caught.value.param) == ("item_not_found", "item_id")


async def test_the_sdk_turns_the_pages(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    for start in range(0, 45, 15):
        batch: Any = [{"role": "user", "content": str(number)} for number in range(start, start + 15)]
        await client.conversations.items.create(conversation.id, items=batch)
    for order, step in (("asc", 1), ("desc", -1)):
        said = [item.content[0].text for item in await all_items(client, conversation.id, order=order, limit=7)]
        assert said == [str(number) for number in range(45)][::step]
    first = await client.conversations.items.list(conversation.id)
    assert (len(first.data), first.has_more, first.data[0].content[0].text) == (20, True, "44")  # type: ignore[union-attr]


async def test_an_empty_page_has_no_ids(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    page = await client.get(f"/conversations/{conversation.id}/items", cast_to=object)
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


async def test_include_is_taken_where_it_is_harmless(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    include: Any = ["message.output_text.logprobs"]
    added = await client.conversations.items.create(conversation.id, items=ITEMS, include=include)
    (only,) = await all_items(client, conversation.id, include=include, limit=100, after=added.data[1].id)
    assert only.id == added.data[0].id
    with pytest.raises(openai.BadRequestError) as caught:
        await client.conversations.items.create(conversation.id, items=ITEMS, include=["file_search_call.results"])
    assert caught.value.param == "include[0]"


# -- what is wrong ---------------------------------------------------------------------------------------------------


async def test_nothing_that_is_wrong_is_asked_of_anybody(mesh: Mesh, client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    asked = len(mesh.writer.appended)
    for path, body, param in (
        ("/conversations", {"items": ITEMS * 7}, "items"),
        (f"/conversations/{conversation.id}", {"metadata": {"k": 1}}, "metadata.k"),
        (f"/conversations/{conversation.id}/items", {"items": []}, "items"),
    ):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.post(path, body=body, cast_to=object)
        assert caught.value.param == param
    assert len(mesh.writer.appended) == asked


async def test_what_is_no_page_is_named(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    for query in ("limit=0", "limit=101", "limit=x", "order=up", "after=msg_1", f"after={NO_ITEM}", "after=%00"):
        with pytest.raises(openai.BadRequestError) as caught:
            await client.get(f"/conversations/{conversation.id}/items?{query}", cast_to=object)
        assert caught.value.param == query.partition("=")[0]


async def test_bodies_that_are_none_are_refused() -> None:
    raws = (
        b"[" * 1900,
        b'{"items":' + b'[{"role":' * 200,
        b'{"metadata":{"k":"\xff\xfe"}}',
        b'{"metadata":{"k":"\\ud800"}}',
        b'{"metadata":{"k":"\\u0000"}}',
        b" ",
        b'{"items":[{"role":"user","content":"' + b"x" * 3000 + b'"}]}',
    )
    async with gateway(Mesh(on_query=Keeper()), keys=True, body_limit_bytes=2000) as mesh, httpx.AsyncClient() as http:
        for path in ("", f"/{UNKNOWN}", f"/{UNKNOWN}/items"):
            for raw in raws:
                headers = {"authorization": "Bearer sk-a"}
                answer = await http.post(f"{mesh.url}/conversations{path}", content=raw, headers=headers)
                assert answer.status_code == (413 if len(raw) > 2000 else 400), answer.text
                assert answer.json()["error"].keys() == {"message", "type", "param", "code"}


# -- whose it is -----------------------------------------------------------------------------------------------------

EVERY_CALL: list[tuple[str, str, Any]] = [
    ("GET", "", None),
    ("POST", "", {"metadata": {"stolen": "yes"}}),
    ("DELETE", "", None),
    ("GET", "/items", None),
    ("GET", "/items?after=msg_1", None),
    ("POST", "/items", {"items": [{"role": "user", "content": "x"}]}),
    ("GET", f"/items/{NO_ITEM}", None),
    ("DELETE", f"/items/{NO_ITEM}", None),
]


async def test_foreign_deleted_and_impossible_ids_are_alike(mesh: Mesh) -> None:
    async with mesh.client() as mine, mesh.client("sk-b") as theirs:
        foreign = (await theirs.conversations.create(metadata={"owner": "beta"})).id
        deleted = (await mine.conversations.create()).id
        await mine.conversations.delete(deleted)
        for name in (foreign, deleted, UNKNOWN, "conv_1", "conv_%00", "resp_1", "conv_" + "a" * 400):
            for method, path, body in EVERY_CALL:
                with pytest.raises(openai.NotFoundError) as caught:
                    await mine.request(object, _options(method, f"/conversations/{name}{path}", body))
                shown = name.replace("%00", "\0")[:80]
                assert caught.value.body == {
                    "message": f"Conversation with id '{shown}' not found.",
                    "type": "invalid_request_error",
                    "param": "conversation_id",
                    "code": "conversation_not_found",
                }
        assert (await theirs.conversations.retrieve(foreign)).metadata == {"owner": "beta"}
        assert await all_items(theirs, foreign) == []


def _options(method: str, path: str, body: Any) -> Any:
    return openai._models.FinalRequestOptions.construct(method=method, url=path, json_data=body)


async def test_an_items_id_that_cannot_be_one_is_not_asked_for(mesh: Mesh, client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    for name in ("msg_1", "resp_" + "0" * 32, "x"):
        with pytest.raises(openai.NotFoundError) as caught:
            await client.conversations.items.delete(name, conversation_id=conversation.id)
        assert (caught.value.code, caught.value.param) == ("item_not_found", "item_id")


# -- what history answers --------------------------------------------------------------------------------------------


async def test_a_busy_conversation_takes_no_items(mesh: Mesh, client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    mesh.on_query.locked = True  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError) as caught:
        await client.conversations.items.create(conversation.id, items=ITEMS)
    assert (caught.value.code, caught.value.param) == ("conversation_locked", "conversation")


async def test_a_history_that_is_silent_is_a_503_with_when_to_come_again() -> None:
    keeper = Keeper(silent=1)
    async with gateway(Mesh(on_query=keeper), query_timeout_s=0.05) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError) as caught:
            await client.conversations.create()
        assert caught.value.status_code == 503
        assert caught.value.response.headers["retry-after"] == "1"


# -- at most once ----------------------------------------------------------------------------------------------------

KEY = {"Idempotency-Key": "k"}


async def test_a_key_makes_one_conversation(mesh: Mesh, client: AsyncOpenAI) -> None:
    first = await client.conversations.create(items=ITEMS, extra_headers=KEY)
    await client.conversations.update(first.id, metadata={"since": "then"})
    again = await client.conversations.create(items=ITEMS, extra_headers=KEY)
    assert (again.id, again.metadata) == (first.id, {"since": "then"})
    one, other = mesh.writer.of(CreateConversation)
    assert one.items == other.items
    assert len(await all_items(client, first.id)) == 3
    assert (await client.conversations.create(items=ITEMS)).id != first.id


async def test_what_was_not_answered_is_asked_again_by_the_same_names() -> None:
    keeper = Keeper(silent=1)
    async with gateway(Mesh(on_query=keeper), query_timeout_s=0.5) as mesh, mesh.client() as client:
        with pytest.raises(openai.InternalServerError):
            await client.conversations.create(extra_headers=KEY)
        created = await client.conversations.create(extra_headers=KEY)
        assert list(keeper.kept) == [created.id]


async def test_a_key_adds_items_once(mesh: Mesh, client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    first = await client.conversations.items.create(conversation.id, items=ITEMS, extra_headers=KEY)
    again = await client.conversations.items.create(conversation.id, items=ITEMS, extra_headers=KEY)
    assert again == first
    assert len(await all_items(client, conversation.id)) == 3
    assert len(mesh.writer.of(AddItems)) == 2


async def test_a_repeated_update_undoes_nothing(mesh: Mesh, client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    await client.conversations.update(conversation.id, metadata={"n": "1"}, extra_headers=KEY)
    await client.conversations.update(conversation.id, metadata={"n": "2"})
    again = await client.conversations.update(conversation.id, metadata={"n": "1"}, extra_headers=KEY)
    assert again.metadata == {"n": "2"}
    assert len(mesh.writer.of(UpdateConversation)) == 2


async def test_a_key_stands_for_one_request(client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create(extra_headers=KEY)
    for asked in (
        client.conversations.create(metadata={"other": "body"}, extra_headers=KEY),
        client.conversations.update(conversation.id, metadata={}, extra_headers=KEY),
        client.conversations.items.create(conversation.id, items=ITEMS, extra_headers=KEY),
        client.responses.create(model="m", input="Hi", extra_headers=KEY),
    ):
        with pytest.raises(openai.UnprocessableEntityError) as caught:
            await asked
        assert caught.value.code == "idempotency_key_reused"


async def test_another_tenants_key_is_another_one(mesh: Mesh) -> None:
    async with mesh.client() as one, mesh.client("sk-b") as other:
        first = await one.conversations.create(extra_headers=KEY)
        assert (await other.conversations.create(extra_headers=KEY)).id != first.id


async def test_a_key_of_what_was_refused_is_free_again(mesh: Mesh, client: AsyncOpenAI) -> None:
    conversation = await client.conversations.create()
    mesh.on_query.locked = True  # type: ignore[attr-defined]
    with pytest.raises(openai.BadRequestError):
        await client.conversations.items.create(conversation.id, items=ITEMS, extra_headers=KEY)
    mesh.on_query.locked = False  # type: ignore[attr-defined]
    added = await client.conversations.items.create(conversation.id, items=ITEMS[:1], extra_headers=KEY)
    assert [item.id for item in await all_items(client, conversation.id)] == [item.id for item in added.data]


async def test_a_repetition_that_is_refused_leaves_the_key_to_what_may_have_been_done() -> None:
    keeper = Keeper()
    async with gateway(Mesh(on_query=keeper), query_timeout_s=0.5) as mesh, mesh.client() as client:
        conversation = await client.conversations.create()
        keeper.silent = 1
        with pytest.raises(openai.InternalServerError):
            await client.conversations.items.create(conversation.id, items=ITEMS, extra_headers=KEY)
        keeper.locked = True
        with pytest.raises(openai.BadRequestError):
            await client.conversations.items.create(conversation.id, items=ITEMS, extra_headers=KEY)
        keeper.locked = False
        await client.conversations.items.create(conversation.id, items=ITEMS, extra_headers=KEY)
        assert len(await all_items(client, conversation.id)) == 3


async def test_what_writes_counts_as_a_request_and_says_so() -> None:
    limits = RateLimits({"default": Limits(2, 10)})
    async with gateway(Mesh(on_query=Keeper()), keys=True, limits=limits) as mesh, mesh.client() as client:
        conversation = await client.conversations.create()
        await client.conversations.update(conversation.id, metadata={})
        with pytest.raises(openai.RateLimitError) as caught:
            await client.conversations.items.create(conversation.id, items=ITEMS)
        assert caught.value.response.headers["x-ratelimit-remaining-requests"] == "0"
        assert await all_items(client, conversation.id) == []
