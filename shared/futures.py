"""Asking a future that is done what became of it."""

import asyncio
from typing import Any


def error_of(done: "asyncio.Future[Any]") -> BaseException | None:
    """What it failed with; None where it succeeded, or was cancelled, which is nobody's failure.

    `exception()` raises for one that was cancelled, and in a callback that goes to the event loop alone.
    """
    return None if done.cancelled() else done.exception()
