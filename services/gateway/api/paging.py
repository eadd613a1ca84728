"""Lists in pages, as OpenAI's clients turn them: by the id of the last item that they have seen. Pure."""

from collections.abc import Sequence
from typing import Any, Literal

from pydantic import Field
from starlette.datastructures import QueryParams

from services.gateway.api.query import number
from services.gateway.api.validation import Neutral, Strict, is_nothing, parse
from services.gateway.errors import cursor_not_found

MAX_ITEMS = 100
DEFAULT_ITEMS = 20


class Page(Strict):
    """Which part of a list, in which order."""

    after: str | None = None
    limit: int = Field(DEFAULT_ITEMS, ge=1, le=MAX_ITEMS)
    order: Literal["asc", "desc"] = "desc"

    def of(self, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
        """This page of `items`, which are the oldest first and have an `id` each. Raises ApiError 400."""
        ordered = list(items) if self.order == "asc" else list(reversed(items))
        start = 0 if self.after is None else self._behind(ordered, self.after)
        data = ordered[start : start + self.limit]
        return listing(data, has_more=start + len(data) < len(ordered))

    def _behind(self, ordered: Sequence[dict[str, Any]], after: str) -> int:
        for place, item in enumerate(ordered):
            if item["id"] == after:
                return place + 1
        raise cursor_not_found(after)


def listing(data: Sequence[dict[str, Any]], *, has_more: bool) -> dict[str, Any]:
    """The list object of a page of items."""
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": has_more,
    }


def page_of(query: QueryParams) -> Page:
    """The page that a query asks for. Raises ApiError 400."""
    asked: dict[str, Any] = {name: query[name] for name in ("after", "order", "before") if name in query}
    if "limit" in query:
        asked["limit"] = number(query["limit"])
    return parse(Page, asked, _NEUTRAL)


_NEUTRAL: Neutral = {"before": is_nothing}
"""Its documentation is gone and no SDK has it any more."""
