"""The contract of a broker, as chatmesh uses one: the same tests on every broker."""

import asyncio
import time
from uuid import uuid4

import pytest
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, NewTopic
from aiokafka.errors import KafkaError

from deploy.brokers import Broker
from deploy.brokers.jvm import JvmBroker
from deploy.brokers.kafka_settings import KAFKA_VERSION

PARTITIONS = 4
WAIT_S = 60
IN_VAIN_S = 5
"""For what a broker does not do, and may not say so."""


@pytest.fixture
async def topic(broker: Broker) -> str:
    return await make_topic(broker)


async def make_topic(broker: Broker, **config: str) -> str:
    name = f"contract-{uuid4().hex[:12]}"
    admin = AIOKafkaAdminClient(bootstrap_servers=broker.bootstrap)
    await admin.start()
    try:
        new = NewTopic(name, num_partitions=PARTITIONS, replication_factor=1, topic_configs=config)
        await admin.create_topics([new])
    finally:
        await admin.close()
    return name


async def produce(broker: Broker, topic: str, values: list[bytes], partition: int, **options: object) -> list[int]:
    """Append in order to one partition; returns the offsets."""
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all", **options) as producer:
        return [(await producer.send_and_wait(topic, value, partition=partition)).offset for value in values]


async def read(broker: Broker, topic: str, partition: int, count: int) -> list[bytes]:
    """The first `count` values of a partition, read without a group."""
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, fetch_max_wait_ms=20) as consumer:
        where = TopicPartition(topic, partition)
        consumer.assign([where])
        consumer.seek(where, 0)
        async with asyncio.timeout(WAIT_S):
            return [(await consumer.getone()).value for _ in range(count)]


def member(broker: Broker, topic: str, group: str) -> AIOKafkaConsumer:
    return AIOKafkaConsumer(
        topic,
        bootstrap_servers=broker.bootstrap,
        group_id=group,
        auto_offset_reset="earliest",
        enable_auto_commit=False,
        session_timeout_ms=broker.capabilities.session_timeout_ms,
        heartbeat_interval_ms=200,
        fetch_max_wait_ms=20,
    )


async def test_records_stay_in_the_partition_and_order_in_which_they_were_sent(broker: Broker, topic: str) -> None:
    values = [f"value {n}".encode() for n in range(20)]
    assert await produce(broker, topic, values, partition=3) == list(range(20))
    assert await produce(broker, topic, [b"elsewhere"], partition=1) == [0]
    assert await read(broker, topic, partition=3, count=20) == values


async def test_large_records_pass(broker: Broker, topic: str) -> None:
    large = bytes(900_000)
    await produce(broker, topic, [large], partition=0, max_request_size=1_000_000)
    assert await read(broker, topic, partition=0, count=1) == [large]


async def test_offsets_are_found_by_the_time_of_their_append(broker: Broker) -> None:
    topic = await make_topic(broker, **{"message.timestamp.type": "LogAppendTime"})
    await produce(broker, topic, [b"0", b"1"], partition=2)
    await asyncio.sleep(0.05)  # the log's clock has a resolution of 1 ms
    between_ms = time.time_ns() // 1_000_000
    await asyncio.sleep(0.05)
    await produce(broker, topic, [b"2", b"3"], partition=2)
    where = TopicPartition(topic, 2)
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        assert (await consumer.offsets_for_times({where: between_ms}))[where].offset == 2
        past_the_end = (await consumer.offsets_for_times({where: between_ms + 60_000}))[where]
        assert past_the_end is None or past_the_end.offset in (0, -1)


async def test_a_group_shares_partitions_and_a_survivor_gets_all(broker: Broker, topic: str) -> None:
    group = f"group-{uuid4().hex[:8]}"
    first, second = member(broker, topic, group), member(broker, topic, group)
    await first.start()
    await second.start()
    try:
        await settle(first, second)
        await second.stop()
        async with asyncio.timeout(WAIT_S):
            while len(first.assignment()) < PARTITIONS:
                await first.getmany(timeout_ms=20)
    finally:
        await first.stop()
        await second.stop()


async def settle(first: AIOKafkaConsumer, second: AIOKafkaConsumer) -> None:
    """While a rebalance runs, one may still hold what the other has already: wait until they share."""
    async with asyncio.timeout(WAIT_S):
        while not (first.assignment() and second.assignment() and first.assignment().isdisjoint(second.assignment())):
            await asyncio.gather(first.getmany(timeout_ms=20), second.getmany(timeout_ms=20))
    assert len(first.assignment() | second.assignment()) == PARTITIONS


async def test_a_group_continues_behind_its_committed_offset(broker: Broker, topic: str) -> None:
    await produce(broker, topic, [b"0", b"1", b"2"], partition=0)
    group = f"group-{uuid4().hex[:8]}"
    async with member(broker, topic, group) as consumer, asyncio.timeout(WAIT_S):
        assert (await consumer.getone()).value == b"0"
        await consumer.commit({TopicPartition(topic, 0): (1, "note")})
    async with member(broker, topic, group) as consumer, asyncio.timeout(WAIT_S):
        assert (await consumer.getone()).value == b"1"


async def test_idempotence_is_as_declared(broker: Broker, topic: str) -> None:
    async def send(within_s: float) -> list[int]:
        async with asyncio.timeout(within_s):
            return await produce(broker, topic, [b"once"], partition=0, enable_idempotence=True)

    if broker.capabilities.idempotence:
        assert await send(WAIT_S) == [0]
    else:
        with pytest.raises((KafkaError, TimeoutError)):
            await send(IN_VAIN_S)


async def test_log_append_time_is_as_declared(broker: Broker) -> None:
    topic = await make_topic(broker, **{"message.timestamp.type": "LogAppendTime"})
    sent_at_ms = 1_700_000_000_000
    async with AIOKafkaProducer(bootstrap_servers=broker.bootstrap, acks="all") as producer:
        await producer.send_and_wait(topic, b"x", partition=0, timestamp_ms=sent_at_ms)
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap, fetch_max_wait_ms=20) as consumer:
        where = TopicPartition(topic, 0)
        consumer.assign([where])
        consumer.seek(where, 0)
        async with asyncio.timeout(WAIT_S):
            stamped_ms = (await consumer.getone()).timestamp
    assert (stamped_ms > sent_at_ms) == broker.capabilities.log_append_time


async def test_records_survive_a_kill_exactly_where_declared(broker: Broker) -> None:
    if not broker.capabilities.controllable:
        return
    own = type(broker)()
    with own:
        topic = await make_topic(own)
        await produce(own, topic, [b"kept"], partition=0)
        address = own.bootstrap
        await asyncio.to_thread(own.kill)
        await asyncio.to_thread(own.restart)
        assert own.bootstrap == address
        if own.capabilities.persistent:
            assert await read(own, topic, partition=0, count=1) == [b"kept"]
        else:
            await make_topic(own)  # it serves, but knows nothing of before
            assert topic not in await topics_of(own)


async def topics_of(broker: Broker) -> set[str]:
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        return await consumer.topics()


async def test_topics_come_into_being_unasked_only_where_declared(broker: Broker) -> None:
    if not broker.capabilities.controllable:
        return  # how it is configured is its owner's business
    name = f"never-made-{uuid4().hex[:8]}"
    async with AIOKafkaConsumer(bootstrap_servers=broker.bootstrap) as consumer:
        await consumer._client.add_topic(name)  # the public API cannot ask for one topic without waiting for it
    assert (name in await topics_of(broker)) == broker.capabilities.creates_topics_unasked


def test_the_versions_of_the_jars_and_of_the_image_agree() -> None:
    from deploy.brokers.jvm import KAFKA_FOLDER

    assert f"<kafka.version>{KAFKA_VERSION}</kafka.version>" in (KAFKA_FOLDER / "pom.xml").read_text()
    assert JvmBroker.name == "kafka"
