"""Sending on a connection that was lost a moment ago: on every loop, aiokafka must hear that it is broken."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest
import uvloop
from aiokafka.conn import create_conn
from aiokafka.errors import KafkaConnectionError
from aiokafka.protocol.admin import ApiVersionRequest

from shared.log.mended.connections import Connection

RESETS = struct.pack("ii", 1, 0)
"""SO_LINGER on, for 0 s: closing resets."""
SPEAKS_VERSIONS = struct.pack(">hihhh", 0, 1, 18, 0, 2)
"""An answer to ApiVersions v0: no error, one API of which it speaks versions 0 to 2."""


async def greet_and_reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A broker that resets the connection once it has said which versions it speaks."""
    (length,) = struct.unpack(">i", await reader.readexactly(4))
    correlation = (await reader.readexactly(length))[4:8]
    writer.write(struct.pack(">i", len(correlation + SPEAKS_VERSIONS)) + correlation + SPEAKS_VERSIONS)
    await writer.drain()
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESETS)
    writer.close()


@asynccontextmanager
async def lost_connection() -> AsyncIterator[Connection]:
    """Its transport knows that the broker reset it, its reader's task does not yet."""
    async with asyncio.timeout(5), await asyncio.start_server(greet_and_reset, "127.0.0.1", 0) as server:
        connection: Connection = await create_conn(*server.sockets[0].getsockname(), request_timeout_ms=1000)
        while connection._reader.exception() is None:
            await asyncio.sleep(0)
        assert isinstance(connection, Connection) and connection.connected()
        yield connection
        connection.close()


async def send() -> None:
    async with lost_connection() as connection:
        await connection.send(ApiVersionRequest())


async def send_as_aiokafka_does() -> None:
    async with lost_connection() as connection:
        await super(Connection, connection).send(ApiVersionRequest())


@pytest.mark.parametrize("make_loop", [uvloop.new_event_loop, asyncio.new_event_loop])
def test_sending_on_a_lost_connection_finds_it_broken(make_loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    with asyncio.Runner(loop_factory=make_loop) as runner, pytest.raises(KafkaConnectionError, match="Connection at"):
        runner.run(send())


def test_uvloop_still_tells_aiokafka_otherwise() -> None:
    """Where this fails, `shared/log/mended/connections.py` is needed no more."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner, pytest.raises(RuntimeError) as caught:
        runner.run(send_as_aiokafka_does())
    assert type(caught.value) is RuntimeError
