"""Each call on `client.conversations` and `client.conversations.items`."""

from typing import Any

import openai
import pytest

from tests.clients.python_sdk.conversing import NO_ITEM, created, listed, nothing_finds, page, texts_of, user
from tests.clients.python_sdk.sdk import Sdk, client
from tests.clients.scene import GLOBEX, Scene

NOBODYS = "conv_019c0f3a7b107001a8f53c2e1d4b6a98"


# -- conversations -----------------------------------------------------------------------------------------------------


async def test_create_and_retrieve(sdk: Sdk, other: Sdk) -> None:
    made = await created(sdk, metadata={"topic": "tides"})
    assert (made.object, made.metadata) == ("conversation", {"topic": "tides"})
    assert made.id.startswith("conv_")
    assert await other.call(lambda c: c.conversations.retrieve(made.id)) == made
    assert await listed(other, made.id) == []
    assert (await created(sdk)).metadata == {}


async def test_update_replaces_the_metadata(sdk: Sdk, other: Sdk) -> None:
    made = await created(sdk, metadata={"topic": "tides", "team": "atlas"})
    updated = await other.call(lambda c: c.conversations.update(made.id, metadata={"topic": "moons"}))
    assert updated.metadata == {"topic": "moons"}
    assert (updated.id, updated.created_at) == (made.id, made.created_at)
    assert await sdk.call(lambda c: c.conversations.retrieve(made.id)) == updated
    cleared = await sdk.call(lambda c: c.conversations.update(made.id, metadata={}))
    assert cleared.metadata == {}


async def test_delete(sdk: Sdk, other: Sdk) -> None:
    made = await created(sdk, "One.")
    [item] = await listed(sdk, made.id)
    gone = await sdk.call(lambda c: c.conversations.delete(made.id))
    assert (gone.id, gone.object, gone.deleted) == (made.id, "conversation.deleted", True)
    for reader in (sdk, other):
        await nothing_finds(reader, made.id, item.id)


@pytest.mark.parametrize("unknown", [NOBODYS, "conv_nope", "resp_019c0f3a7b1070018a5f3c2e1d4b6a98", "x"])
async def test_an_id_that_is_no_conversation(asdk: Sdk, unknown: str) -> None:
    await nothing_finds(asdk, unknown)


async def test_another_tenants_conversation_does_not_exist(asdk: Sdk, scene: Scene) -> None:
    made = await created(asdk, "Ours.")
    [item] = await listed(asdk, made.id)
    theirs = client("async", scene.other_url, GLOBEX)
    await nothing_finds(theirs, made.id, item.id)
    await theirs.close()
    assert await listed(asdk, made.id) == [item]


# -- items -------------------------------------------------------------------------------------------------------------


async def test_items_are_created_in_their_order_and_shape(sdk: Sdk, other: Sdk) -> None:
    made = await created(sdk, "First.")
    given = [
        {"role": "developer", "content": "Be brief."},
        {"role": "system", "content": [{"type": "input_text", "text": "Be kind."}]},
        {"type": "message", "role": "user", "content": [{"type": "input_text", "text": p} for p in ("Se", "cond.")]},
        {"role": "assistant", "content": [{"type": "output_text", "text": "Third.", "annotations": []}]},
    ]  # fmt: skip
    added = await sdk.call(lambda c: c.conversations.items.create(made.id, items=given))
    assert (added.object, added.has_more) == ("list", False)
    assert (added.first_id, added.last_id) == (added.data[0].id, added.data[-1].id)
    assert [item.role for item in added.data] == ["developer", "system", "user", "assistant"]
    assert [[part.text for part in item.content] for item in added.data] == [
        ["Be brief."], ["Be kind."], ["Se", "cond."], ["Third."]
    ]  # fmt: skip
    kinds = {part.type for item in added.data for part in item.content if item.role != "assistant"}
    assert kinds == {"input_text"}
    assert added.data[-1].content[0].type == "output_text"
    assert {item.status for item in added.data} == {"completed"}
    everything = await listed(other, made.id)
    assert texts_of(everything[:1]) == ["First."]
    assert everything[1:] == added.data
    assert len({item.id for item in everything}) == len(everything)


async def test_items_are_paged_in_both_orders(sdk: Sdk) -> None:
    words = [f"item {n}" for n in range(25)]
    made = await created(sdk, *words[:20])
    await sdk.call(lambda c: c.conversations.items.create(made.id, items=list(map(user, words[20:]))))
    ascending = await listed(sdk, made.id, limit=7)
    assert texts_of(ascending) == words
    assert await listed(sdk, made.id, limit=7, order="desc") == ascending[::-1]
    newest = await page(sdk, made.id)
    assert (texts_of(newest.data), newest.has_more) == (words[:4:-1], True), "20 of them, the newest first"
    assert newest.last_id == ascending[5].id
    behind = await page(sdk, made.id, after=ascending[4].id, limit=20, order="asc")
    assert (behind.data, behind.has_more) == (ascending[5:], False)
    after_the_last = await page(sdk, made.id, after=ascending[-1].id, order="asc")
    assert (after_the_last.data, after_the_last.has_more) == ([], False)


async def test_one_item_is_retrieved_and_deleted(sdk: Sdk, other: Sdk) -> None:
    made = await created(sdk, "One.", "Two.", "Three.", metadata={"topic": "tides"})
    first, second, third = await listed(sdk, made.id)
    assert await other.call(lambda c: c.conversations.items.retrieve(second.id, conversation_id=made.id)) == second
    left = await sdk.call(lambda c: c.conversations.items.delete(second.id, conversation_id=made.id))
    assert left == made, "the conversation, as it is"
    assert await listed(other, made.id) == [first, third]
    for do in (
        lambda c: c.conversations.items.retrieve(second.id, conversation_id=made.id),
        lambda c: c.conversations.items.retrieve(NO_ITEM, conversation_id=made.id),
        lambda c: c.conversations.items.retrieve("msg_nope", conversation_id=made.id),
        lambda c: c.conversations.items.delete(NO_ITEM, conversation_id=made.id),
        lambda c: c.conversations.items.delete(second.id, conversation_id=made.id),
    ):
        with pytest.raises(openai.NotFoundError) as caught:
            await sdk.call(do)
        assert caught.value.code == "item_not_found"


async def test_an_item_of_another_conversation_is_not_found(asdk: Sdk) -> None:
    one, two = await created(asdk, "One."), await created(asdk, "Two.")
    [item] = await listed(asdk, one.id)
    for do in (
        lambda c: c.conversations.items.retrieve(item.id, conversation_id=two.id),
        lambda c: c.conversations.items.delete(item.id, conversation_id=two.id),
    ):
        with pytest.raises(openai.NotFoundError):
            await asdk.call(do)
    assert await listed(asdk, one.id) == [item]


# -- bad input ---------------------------------------------------------------------------------------------------------

TOO_MUCH: dict[str, Any] = {
    "17 keys": {f"k{n}": "v" for n in range(17)},
    "a key of 65": {"k" * 65: "v"},
    "a value of 513": {"k": "v" * 513},
    "a number": {"k": 7},
    "a list": ["k"],
}


@pytest.mark.parametrize("metadata", TOO_MUCH.values(), ids=TOO_MUCH)
async def test_metadata_out_of_bounds_changes_nothing(asdk: Sdk, metadata: Any) -> None:
    made = await created(asdk, metadata={"topic": "tides"})
    for do in (
        lambda c: c.conversations.create(metadata=metadata),
        lambda c: c.conversations.update(made.id, metadata=metadata),
    ):
        with pytest.raises(openai.BadRequestError, match="metadata"):
            await asdk.call(do)
    assert await asdk.call(lambda c: c.conversations.retrieve(made.id)) == made


BAD_ITEMS: dict[str, Any] = {
    "21 items": [user("x")] * 21,
    "no item": [],
    "an image": [{"role": "user", "content": [{"type": "input_image", "image_url": "data:,", "detail": "auto"}]}],
    "a tool's output": [{"type": "function_call_output", "call_id": "c", "output": "o"}],
    "a role of nobody's": [{"role": "critic", "content": "x"}],
    "no content": [{"role": "user"}],
    "a fine one and a bad one": [user("fine"), {"role": "user", "content": 7}],
    "deep nesting": [{"role": "user", "content": [[[[[[[[["x"]]]]]]]]]}],
}


@pytest.mark.parametrize("items", BAD_ITEMS.values(), ids=BAD_ITEMS)
async def test_items_that_cannot_be_kept_are_refused_and_none_of_them_is_added(asdk: Sdk, items: Any) -> None:
    made = await created(asdk, "One.")
    with pytest.raises(openai.BadRequestError, match="items"):
        await asdk.call(lambda c: c.conversations.items.create(made.id, items=items))
    if items:
        with pytest.raises(openai.BadRequestError, match="items"):
            await asdk.call(lambda c: c.conversations.create(items=items))
    assert texts_of(await listed(asdk, made.id)) == ["One."]


@pytest.mark.parametrize(
    "query",
    [{"limit": 0}, {"limit": 101}, {"order": "sideways"}, {"after": NO_ITEM}, {"after": "nonsense"}, {"after": ""}],
    ids=str,
)
async def test_a_page_that_cannot_be_is_a_clear_4xx(asdk: Sdk, query: dict[str, Any]) -> None:
    made = await created(asdk, "One.")
    with pytest.raises((openai.BadRequestError, openai.NotFoundError)) as caught:
        await listed(asdk, made.id, **query)
    assert next(iter(query)) in f"{caught.value.param} {caught.value.message}"
