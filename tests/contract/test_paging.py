"""How every store pages through a conversation (`Conversations.items`)."""

from itertools import pairwise
from typing import Literal

import pytest

from services.history.stores.port import ItemPage, NotThere, Store, item_bytes
from shared.ids import new_id
from shared.records import Item
from tests.contract.support import an_item, begin, some_items
from tests.unit.history.fakes import TENANT

Order = Literal["asc", "desc"]
ORDERS: tuple[Order, ...] = ("asc", "desc")


def ordered(items: list[Item], order: Order) -> list[Item]:
    return items if order == "asc" else items[::-1]


async def walk(
    store: Store, conversation_id: str, order: Order, limit: int, max_bytes: int | None = None
) -> list[ItemPage]:
    """All pages, each from where the last one ended."""
    pages: list[ItemPage] = []
    after: str | None = None
    while not pages or pages[-1].has_more:
        page = await store.items(TENANT, conversation_id, limit=limit, order=order, after=after, max_bytes=max_bytes)
        assert isinstance(page, ItemPage)
        pages.append(page)
        after = page.items[-1].id
    return pages


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7, 8, 100])
async def test_pages_are_the_whole_without_gap_or_repetition(limit: int, order: Order, store: Store) -> None:
    items = some_items(7)
    conversation_id = await begin(store, items)
    pages = await walk(store, conversation_id, order, limit)
    assert [item for page in pages for item in page.items] == ordered(items, order)
    assert {len(page.items) for page in pages[:-1]} <= {limit}
    assert 1 <= len(pages[-1].items) <= limit
    assert [page.has_more for page in pages] == [True] * (len(pages) - 1) + [False]


@pytest.mark.parametrize("order", ORDERS)
async def test_behind_the_last_there_is_nothing(order: Order, store: Store) -> None:
    items = some_items(3)
    conversation_id = await begin(store, items)
    last = ordered(items, order)[-1]
    page = await store.items(TENANT, conversation_id, limit=5, order=order, after=last.id)
    assert page == ItemPage([], has_more=False)


@pytest.mark.parametrize("order", ORDERS)
async def test_an_item_that_is_not_there_is_no_place_to_go_on_from(order: Order, store: Store) -> None:
    items = some_items(3)
    conversation_id = await begin(store, items)
    await store.erase_item(TENANT, conversation_id, items[1].id)
    for after in (items[1].id, new_id("msg"), "", "0", "msg_'; --"):
        assert await store.items(TENANT, conversation_id, limit=5, order=order, after=after) is NotThere.ITEM


@pytest.mark.parametrize("order", ORDERS)
async def test_deleted_items_leave_no_hole(order: Order, store: Store) -> None:
    items = some_items(9)
    conversation_id = await begin(store, items)
    for item in items[1::2]:
        await store.erase_item(TENANT, conversation_id, item.id)
    pages = await walk(store, conversation_id, order, 2)
    assert [item for page in pages for item in page.items] == ordered(items[::2], order)
    assert [len(page.items) for page in pages] == [2, 2, 1]


async def test_the_last_items_that_were_deleted_are_not_promised(store: Store) -> None:
    items = some_items(4)
    conversation_id = await begin(store, items)
    for item in items[2:]:
        await store.erase_item(TENANT, conversation_id, item.id)
    assert await store.items(TENANT, conversation_id, limit=2, order="asc") == ItemPage(items[:2], has_more=False)


@pytest.mark.parametrize("order", ORDERS)
async def test_a_page_is_bounded_in_bytes_but_has_one_item(order: Order, store: Store) -> None:
    items = [an_item("ź" * size, role="assistant") for size in (10, 500, 3, 200, 1, 1)]
    conversation_id = await begin(store, items)
    max_bytes = item_bytes(items[2]) + item_bytes(items[3])
    pages = await walk(store, conversation_id, order, 100, max_bytes)
    assert [item for page in pages for item in page.items] == ordered(items, order)
    for page, following in pairwise(pages):
        size = sum(map(item_bytes, page.items))
        assert size <= max_bytes or len(page.items) == 1
        assert size + item_bytes(following.items[0]) > max_bytes, "another one would have fitted"
    exactly = await store.items(TENANT, conversation_id, limit=2, order="asc", after=items[1].id, max_bytes=max_bytes)
    assert isinstance(exactly, ItemPage) and len(exactly.items) == 2
    one_less = await store.items(
        TENANT, conversation_id, limit=2, order="asc", after=items[1].id, max_bytes=max_bytes - 1
    )
    assert isinstance(one_less, ItemPage) and len(one_less.items) == 1 and one_less.has_more


async def test_a_page_is_bounded_in_items_and_bytes_at_once(store: Store) -> None:
    items = some_items(6)
    conversation_id = await begin(store, items)
    size = item_bytes(items[0])
    for limit, max_bytes, count in ((2, 100 * size, 2), (5, 3 * size, 3), (6, 6 * size, 6), (1, 1, 1)):
        page = await store.items(TENANT, conversation_id, limit=limit, order="asc", max_bytes=max_bytes)
        assert page == ItemPage(items[:count], has_more=count < 6)


async def test_what_is_added_while_somebody_pages_comes_at_the_end(store: Store) -> None:
    items = some_items(3)
    conversation_id = await begin(store, items)
    first = await store.items(TENANT, conversation_id, limit=2, order="asc")
    late = an_item("late")
    await store.add_items(TENANT, conversation_id, [late])
    second = await store.items(TENANT, conversation_id, limit=2, order="asc", after=items[1].id)
    assert first == ItemPage(items[:2], has_more=True)
    assert second == ItemPage([items[2], late], has_more=False)
