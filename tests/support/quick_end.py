"""uvicorn without its tenths of a second.

As it ends, uvicorn sleeps 0.1 s and looks every 0.1 s whether all have gone (0.54: `Server.shutdown`). A suite that
starts hundreds of gateways in its own process would spend most of its time there.
"""

import asyncio
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import uvicorn.server

_TIMES = 20


class _Hasty:
    """asyncio, whose `sleep` is short."""

    async def sleep(self, delay_s: float) -> None:
        await asyncio.sleep(delay_s / _TIMES)

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)


@pytest.fixture(autouse=True, scope="session")
def uvicorn_ends_quickly() -> Iterator[None]:
    with patch.object(uvicorn.server, "asyncio", _Hasty()):
        yield
