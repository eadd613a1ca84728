"""MongoDB's store one server command at a time: before each, a test may stop its adapter, or let others go first.

A bulk write is taken apart into its statements: the server itself may end between two of them.
"""

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

from services.history.stores.mongo import Client

Step = Callable[[], Awaitable[None]]


class Stopped(Exception):
    """The adapter ends here, as its process would."""


def stepwise(client: Client, step: Step) -> Callable[[str], Any]:
    """`MongoStore`'s `connect`: that client, which stays open, with `step` awaited before every command."""
    return lambda url: _Client(client, step)


def stops_before(command: int) -> Step:
    """Raises Stopped before the command of this number, counted from 0, and all that follow."""
    left = command

    async def step() -> None:
        nonlocal left
        if left == 0:
            raise Stopped
        left -= 1

    return step


@dataclass
class _Client:
    client: Client
    step: Step

    def get_default_database(self, default: str) -> "_Database":
        return _Database(self.client.get_default_database(default), self.step)

    def close(self) -> None:
        """Others go on with it."""


@dataclass
class _Database:
    database: Any
    step: Step

    def get_collection(self, name: str, **options: Any) -> "_Collection":
        return _Collection(self.database.get_collection(name, **options), self.step)


@dataclass
class _Collection:
    collection: Any
    step: Step

    def find(self, *args: Any, **kwargs: Any) -> "_Cursor":
        return _Cursor(self.collection.find(*args, **kwargs), self.step)

    async def bulk_write(self, operations: list[Any], *, ordered: bool) -> None:
        assert ordered
        for operation in operations:
            await self.step()
            await self.collection.bulk_write([operation], ordered=True)

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def command(*args: Any, **kwargs: Any) -> Any:
            await self.step()
            return await getattr(self.collection, name)(*args, **kwargs)

        return command


@dataclass
class _Cursor:
    cursor: Any
    step: Step

    def sort(self, *args: Any) -> "_Cursor":
        return _Cursor(self.cursor.sort(*args), self.step)

    def limit(self, count: int) -> "_Cursor":
        return _Cursor(self.cursor.limit(count), self.step)

    async def to_list(self, length: int) -> list[Any]:
        await self.step()
        found: list[Any] = await self.cursor.to_list(length)
        return found

    async def __aiter__(self) -> AsyncIterator[Any]:
        await self.step()
        async for document in self.cursor:
            yield document
