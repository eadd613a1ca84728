"""Clients of both kinds; each is closed after its test."""

from collections.abc import AsyncIterator

import pytest

from tests.clients.python_sdk.sdk import Sdk, client
from tests.clients.scene import Scene


@pytest.fixture(params=["async", "sync"])
async def sdk(request: pytest.FixtureRequest, scene: Scene) -> AsyncIterator[Sdk]:
    """A client of the first gateway, of either kind."""
    made = client(request.param, scene.url)
    yield made
    await made.close()


@pytest.fixture
async def asdk(scene: Scene) -> AsyncIterator[Sdk]:
    """An async client of the first gateway."""
    made = client("async", scene.url)
    yield made
    await made.close()


@pytest.fixture
async def other(scene: Scene) -> AsyncIterator[Sdk]:
    """An async client of the second gateway, of the same tenant."""
    made = client("async", scene.other_url)
    yield made
    await made.close()
