"""Policies are found by name by whoever takes a response over."""

import asyncio
import logging

import pytest

from services.moderation.policy import Policy, PolicyShelf, parse_policy
from shared.errors import AppendError, BrokerUnavailableError
from shared.records import PolicyKnown
from shared.topics import POLICIES, Service
from tests.support.fakes import MemoryLog, MemoryReplayer, MemoryWriter


def policy(version: str) -> Policy:
    return parse_policy(f"version: {version}\ncategories:\n  hate: {{output: cut}}\n")


class Replica:
    """A shelf of its own on the common log."""

    def __init__(self, log: MemoryLog, kept: int = 64) -> None:
        self.reader = MemoryReplayer(log, Service.MODERATION)
        self.writer = MemoryWriter(log, Service.MODERATION)
        self.shelf = PolicyShelf(self.reader, self.writer, kept=kept)


@pytest.fixture
def log() -> MemoryLog:
    return MemoryLog()


async def test_what_one_replica_puts_another_finds(log: MemoryLog) -> None:
    first, second = Replica(log), Replica(log)
    await first.shelf.put(policy("a"))
    found = await second.shelf.named(policy("a").name)
    assert found == policy("a") and found is await second.shelf.named(policy("a").name)
    assert second.reader.asked == [(policy("a").name, None, None)]  # the second time it was at hand


async def test_a_policy_stands_in_the_log_once(log: MemoryLog) -> None:
    for replica in (Replica(log), Replica(log)):
        await replica.shelf.put(policy("a"))
        await replica.shelf.put(policy("a"))
    assert log.of(POLICIES) == [PolicyKnown(name=policy("a").name, source=policy("a").source)]


async def test_it_is_put_only_when_the_log_has_it(log: MemoryLog) -> None:
    replica = Replica(log)
    replica.writer.slow = True
    putting = asyncio.create_task(replica.shelf.put(policy("a")))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert log.of(POLICIES) and not putting.done()
    replica.writer.acknowledge()
    await putting


async def test_what_the_log_does_not_have_is_nobodys_policy_for_good(log: MemoryLog) -> None:
    replica = Replica(log)
    assert await replica.shelf.named("gone-1@00000000") is None
    assert await replica.shelf.named("gone-1@00000000") is None
    assert len(replica.reader.asked) == 1


async def test_trouble_with_the_broker_is_not_taken_for_an_answer(log: MemoryLog) -> None:
    owner, replica = Replica(log), Replica(log)
    await owner.shelf.put(policy("a"))
    replica.reader.failure = BrokerUnavailableError("away")
    with pytest.raises(BrokerUnavailableError):
        await replica.shelf.named(policy("a").name)
    with pytest.raises(BrokerUnavailableError):
        await replica.shelf.put(policy("b"))
    replica.reader.failure = None
    assert await replica.shelf.named(policy("a").name) is not None
    replica.writer.fails = lambda _topic, _record: True
    with pytest.raises(AppendError):
        await replica.shelf.put(policy("b"))


async def test_memory_is_bounded_and_what_was_forgotten_is_found_again(log: MemoryLog) -> None:
    replica = Replica(log, kept=2)
    for version in ("a", "b", "c"):
        await replica.shelf.put(policy(version))
    replica.reader.asked.clear()
    for version in ("c", "b", "a", "b"):
        assert await replica.shelf.named(policy(version).name) == policy(version)
    assert [name for name, *_ in replica.reader.asked] == [policy("a").name]


@pytest.mark.parametrize(
    ("source", "told"),
    [
        (policy("a").source.replace("cut", "mask"), "by the rules of this one it would be a@"),
        ("version: a\nof_tomorrow: true\n", "cannot be read by this one"),
    ],
)
async def test_a_policy_of_another_release_is_not_decided_by(
    log: MemoryLog, caplog: pytest.LogCaptureFixture, source: str, told: str
) -> None:
    """The name holds the rules' version too: here the same file would have another one."""
    log.append(POLICIES, PolicyKnown(name="a@00000000", source=source))
    with caplog.at_level(logging.WARNING):
        assert await Replica(log).shelf.named("a@00000000") is None
    assert told in caplog.text
