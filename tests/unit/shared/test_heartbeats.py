"""The thread that beats: at its own pace, at once where somebody waits for it, again after the broker was away."""

import asyncio
import threading
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared import heartbeats
from shared.errors import AccessDeniedError, AppendError
from shared.heartbeats import Heart
from shared.records import Heartbeat
from shared.settings import MeshSettings
from shared.topics import Service

SLOWLY_MS = 5_000
TIMEOUT_S = 2.0


class Topic:
    """What all writers of a test write to; `away` fails every append, `refuse` ends whoever watches a writer, `broken`
    is a bug."""

    def __init__(self) -> None:
        self.beats: list[Heartbeat] = []
        self.away = False
        self.arrived = threading.Event()
        self.broken = False
        self._refused = threading.Event()

    def writer(self, *_: Any, **__: Any) -> "Topic":
        return self

    async def start(self) -> None: ...

    async def stop(self) -> None: ...

    async def failed(self) -> None:
        while not self._refused.is_set():
            await asyncio.sleep(0.01)
        raise AccessDeniedError("User:inference may not append to service.heartbeats")

    def refuse(self) -> None:
        self._refused.set()

    async def append(self, _: Any, beat: Heartbeat) -> None:
        if self.broken:
            raise RuntimeError("a bug")
        if self.away:
            raise AppendError("away")
        self.beats.append(beat)
        self.arrived.set()

    async def next_beat(self) -> Heartbeat:
        assert await asyncio.to_thread(self.arrived.wait, TIMEOUT_S), "no beat came"
        self.arrived.clear()
        return self.beats[-1]


@pytest.fixture
def topic(monkeypatch: pytest.MonkeyPatch) -> Topic:
    topic = Topic()
    monkeypatch.setattr(heartbeats, "LogWriter", topic.writer)
    return topic


def heart(beat_ms: int, steps: Any = None) -> Heart:
    return Heart(MeshSettings(heartbeat_ms=beat_ms), Service.INFERENCE, "worker_1", steps)


@pytest.fixture
async def slow(topic: Topic) -> AsyncIterator[Heart]:
    """Has beaten once and would not beat again during a test."""
    started = heart(SLOWLY_MS)
    started.start()
    await topic.next_beat()
    yield started
    await asyncio.to_thread(started.stop)


async def test_it_beats_by_itself_and_counts(topic: Topic) -> None:
    steps = iter(range(1_000))
    quick = heart(20, lambda: next(steps))
    quick.start()
    for _ in range(3):
        await topic.next_beat()
    await asyncio.to_thread(quick.stop)
    assert [beat.seq for beat in topic.beats] == list(range(1, len(topic.beats) + 1))
    assert [beat.steps for beat in topic.beats] == list(range(len(topic.beats)))
    assert {(beat.id, beat.service, beat.state) for beat in topic.beats} == {("worker_1", "inference", "starting")}


async def test_what_is_announced_is_sent_at_once(topic: Topic, slow: Heart) -> None:
    slow.update(slots_free=3)
    assert len(topic.beats) == 1, "an update waits for the next beat"
    assert await slow.announce(TIMEOUT_S, state="draining")
    assert (topic.beats[-1].state, topic.beats[-1].slots_free, len(topic.beats)) == ("draining", 3, 2)


async def test_what_the_log_does_not_take_was_not_announced(topic: Topic, slow: Heart) -> None:
    topic.away = True
    assert not await slow.announce(0.2, state="draining")
    assert len(topic.beats) == 1


async def test_it_beats_again_when_the_broker_is_back(topic: Topic) -> None:
    quick = heart(20)
    quick.start()
    await topic.next_beat()
    topic.away = True
    await asyncio.sleep(0.1)
    topic.arrived.clear()
    topic.away = False
    beat = await topic.next_beat()
    await asyncio.to_thread(quick.stop)
    assert beat.seq > 2, "lost beats are not sent late"


async def test_its_end_does_not_wait_for_the_next_beat(slow: Heart) -> None:
    async with asyncio.timeout(TIMEOUT_S):
        await asyncio.to_thread(slow.stop)


async def test_without_a_thread_nothing_is_announced_and_stop_is_harmless() -> None:
    silent = heart(SLOWLY_MS)
    assert not await silent.announce(0.05, state="ready")
    silent.stop()


async def test_who_may_not_beat_says_so_to_whoever_watches(topic: Topic, slow: Heart) -> None:
    topic.refuse()
    with pytest.raises(AccessDeniedError, match=r"may not append to service\.heartbeats"):
        await asyncio.wait_for(slow.failed(), TIMEOUT_S)


async def test_no_heart_stops_unnoticed_whatever_stopped_it(topic: Topic) -> None:
    topic.broken = True
    quick = heart(20)
    quick.start()
    with pytest.raises(RuntimeError, match="a bug"):
        await asyncio.wait_for(quick.failed(), TIMEOUT_S)
    await asyncio.to_thread(quick.stop)
