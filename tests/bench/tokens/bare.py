"""The bare loops that a service is measured against: aiokafka and nothing else, in one process of their own.

    produce   appends ready-made records (value, key and headers as the worker's) at the load's rate
    relay     reads the journal; for each record of tokens it appends `1 / every` ready-made events
    consume   reads the events, looks at nothing
    serve     the same, and writes each record's ready-made bytes to the socket of the stream that its key names

They use the clients' settings of `shared.log`, the services' event loop and the same partitions, wait for no
acknowledgement, and neither encode nor decode. `python -m tests.bench.tokens.bare` reads a `BareLoop` as JSON from
stdin, prints a line when it runs (`serve`: with its port), and runs until it is killed.
"""

import asyncio
import itertools
import sys
from collections.abc import AsyncIterator
from typing import Any, Literal

import msgspec
import uvloop
from aiokafka import TopicPartition

from shared.log.clients import make_consumer, make_producer
from shared.settings import KafkaSettings
from tests.bench.tokens.rate import TokenLoad, due

POLL_MS = 200
HEAD = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"


class BareRecord(msgspec.Struct, frozen=True):
    """What is appended, or what `serve` writes to a socket (`value`)."""

    value: bytes
    key: bytes = b""
    headers: list[tuple[str, bytes]] = []


class BareLoop(msgspec.Struct, frozen=True):
    """`topic` is read (`produce`: written), `out` written by `relay`. `records`: one a stream, by its number.

    `every`: `relay` writes one record for so many that it reads.
    """

    kind: Literal["produce", "relay", "consume", "serve"]
    settings: dict[str, Any]
    load: dict[str, Any]
    topic: str
    records: list[BareRecord] = []
    out: str = ""
    every: float = 1.0


async def produce(loop: BareLoop, settings: KafkaSettings, load: TokenLoad) -> None:
    producer = make_producer(settings)
    await producer.start()
    say("runs")
    turn = itertools.cycle(enumerate(loop.records))
    async for count in due(load.tokens_per_s):
        for number, record in itertools.islice(turn, count):
            await producer.send(
                loop.topic,
                record.value,
                key=record.key,
                partition=load.partition_of(number),
                headers=record.headers,
            )


async def relay(loop: BareLoop, settings: KafkaSettings, load: TokenLoad) -> None:
    producer = make_producer(settings)
    await producer.start()
    records = {record.key: record for record in loop.records}
    owed = 0.0
    async for messages in tail(loop.topic, settings, load.partitions):
        for message in messages:
            owed += 1 / loop.every
            record = records[message.key]
            while owed >= 1:
                owed -= 1
                await producer.send(
                    loop.out, record.value, key=record.key, partition=message.partition, headers=record.headers
                )


async def consume(loop: BareLoop, settings: KafkaSettings, load: TokenLoad) -> None:
    async for _ in tail(loop.topic, settings, load.partitions):
        pass


async def serve(loop: BareLoop, settings: KafkaSettings, load: TokenLoad) -> None:
    """The first connection belongs to the first record's key, and so on; what they send is read and dropped."""
    waiting = iter(loop.records)
    sockets: dict[bytes, tuple[asyncio.StreamWriter, bytes]] = {}

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        record = next(waiting)
        writer.write(HEAD)
        sockets[record.key] = (writer, record.value)
        while await reader.read(65536):
            pass

    server = await asyncio.start_server(connected, "127.0.0.1", 0, backlog=4096)
    async for messages in tail(loop.topic, settings, load.partitions, port=server.sockets[0].getsockname()[1]):
        for message in messages:
            found = sockets.get(message.key)
            if found is not None:
                found[0].write(found[1])


async def tail(topic: str, settings: KafkaSettings, partitions: int, port: int = 0) -> AsyncIterator[list[Any]]:
    """Records from the end on, as aiokafka gives them."""
    consumer = make_consumer(settings)
    await consumer.start()
    assigned = [TopicPartition(topic, number) for number in range(partitions)]
    consumer.assign(assigned)
    for partition, offset in (await consumer.end_offsets(assigned)).items():
        consumer.seek(partition, offset)
    say(f"runs {port}")
    while True:
        for messages in (await consumer.getmany(timeout_ms=POLL_MS)).values():
            yield messages


def say(line: str) -> None:
    """To whoever started us."""
    print(line, flush=True)


async def _main() -> None:
    loop = msgspec.json.decode(sys.stdin.readline(), type=BareLoop)
    kinds = {"produce": produce, "relay": relay, "consume": consume, "serve": serve}
    await kinds[loop.kind](loop, KafkaSettings(**loop.settings), TokenLoad(**loop.load))


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_main())
