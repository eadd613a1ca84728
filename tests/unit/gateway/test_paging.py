"""Pages of a list: pure, for any list, page size and order."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.datastructures import QueryParams

from services.gateway.api.paging import Page, page_of
from services.gateway.errors import ApiError

ITEMS = [{"id": f"msg_{number}"} for number in range(5)]


def ids(page: dict[str, Any]) -> list[str]:
    return [item["id"] for item in page["data"]]


@given(count=st.integers(0, 250), limit=st.integers(1, 100), order=st.sampled_from(["asc", "desc"]))
def test_turning_all_pages_gives_every_item_once_in_order(count: int, limit: int, order: Any) -> None:
    items = [{"id": f"i{number}"} for number in range(count)]
    seen: list[str] = []
    after, turns = None, 0
    while True:
        page = Page(after=after, limit=limit, order=order).of(items)
        turns += 1
        assert len(page["data"]) <= limit
        assert (page["first_id"], page["last_id"]) == ((ids(page)[0], ids(page)[-1]) if page["data"] else (None, None))
        seen += ids(page)
        if not page["has_more"]:
            break
        after = page["last_id"]
    assert seen == [item["id"] for item in (items if order == "asc" else items[::-1])]
    assert turns == max(1, -(-count // limit))


def test_the_newest_twenty_come_first_unless_asked_otherwise() -> None:
    many = [{"id": str(number)} for number in range(30)]
    page = page_of(QueryParams("")).of(many)
    assert (ids(page)[0], len(page["data"]), page["has_more"], page["object"]) == ("29", 20, True, "list")


def test_behind_the_last_item_is_an_empty_page() -> None:
    page = page_of(QueryParams("order=asc&after=msg_4")).of(ITEMS)
    assert page == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


@pytest.mark.parametrize(
    ("query", "code", "param", "words"),
    [
        ("limit=0", "below_min_value", "limit", ">= 1, but got 0"),
        ("limit=-5", "below_min_value", "limit", ">= 1"),
        ("limit=101", "above_max_value", "limit", "<= 100"),
        ("limit=ten", "invalid_type", "limit", "expected an integer"),
        ("limit=1.5", "invalid_type", "limit", "expected an integer"),
        ("limit=", "invalid_type", "limit", "expected an integer"),
        ("limit=" + "9" * 400, "invalid_type", "limit", "expected an integer"),
        ("limit=²", "invalid_type", "limit", "expected an integer"),
        ("order=up", "invalid_value", "order", "'asc' or 'desc'"),
        ("after=msg_9", "invalid_value", "after", "no item with id 'msg_9'"),
        ("before=msg_1", "unsupported_parameter", "before", "not supported"),
    ],
)
def test_what_is_no_page_is_named(query: str, code: str, param: str, words: str) -> None:
    with pytest.raises(ApiError) as caught:
        page_of(QueryParams(query)).of(ITEMS)
    assert (caught.value.status, caught.value.code, caught.value.param) == (400, code, param)
    assert words in caught.value.message
