"""What became of an append."""

import asyncio
from typing import Any


def succeeded(append: "asyncio.Future[Any]") -> bool:
    """Whether the append is acknowledged."""
    return append.done() and not append.cancelled() and append.exception() is None
