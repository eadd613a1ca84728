"""Who counts as dead, and what an outage of the broker does to that; how often it is said."""

import logging

import pytest

from shared.heartbeats import Cluster
from shared.log.outage import Outage
from shared.records import Heartbeat
from shared.topics import Service


def beat(service_id: str, seq: int = 1, steps: int = 0) -> Heartbeat:
    return Heartbeat(service="inference", id=service_id, state="ready", seq=seq, steps=steps)


def alive(cluster: Cluster) -> list[str]:
    return [member.beat.id for member in cluster.alive(Service.INFERENCE)]


def test_who_is_silent_while_others_beat_is_dead() -> None:
    cluster = Cluster(silent_after_ms=1000)
    cluster.apply(beat("a"), 10_000)
    cluster.apply(beat("b"), 10_000)
    for now_ms in (10_500, 11_000, 11_001):
        cluster.apply(beat("b"), now_ms)
    assert alive(cluster) == ["b"]
    assert [member.beat.id for member in cluster.forget_silent()] == ["a"]


def test_an_outage_of_the_broker_counts_for_nobody() -> None:
    """The first one that is heard afterwards must not make all others look dead."""
    cluster = Cluster(silent_after_ms=1000)
    for name in ("a", "b", "c"):
        cluster.apply(beat(name), 10_000)
    cluster.apply(beat("b"), 17_000)
    assert alive(cluster) == ["a", "b", "c"] and not cluster.forget_silent()
    cluster.apply(beat("b"), 17_600)
    cluster.apply(beat("c"), 17_700)
    cluster.apply(beat("b"), 18_100)
    assert alive(cluster) == ["b", "c"]  # who is not heard afterwards has died meanwhile


def test_time_in_which_nobody_was_heard_does_not_count() -> None:
    cluster = Cluster(silent_after_ms=1000)
    for now_ms in (10_000, 10_900, 17_000, 17_200, 30_000, 30_100):  # silent from 10.9 to 17 s and from 17.2 to 30 s
        cluster.apply(beat("a"), now_ms)
    assert cluster.elapsed_ms(30_000) == 100
    assert cluster.elapsed_ms(17_100) == 100 + 100
    assert cluster.elapsed_ms(20_000) == 100  # from within an outage
    assert cluster.elapsed_ms(10_000) == 900 + 200 + 100
    assert cluster.elapsed_ms(10_000, 17_100) == 900 + 100
    assert cluster.elapsed_ms(31_000, 31_500) == 500


def test_an_outage_is_said_once_and_so_is_its_end(caplog: pytest.LogCaptureFixture) -> None:
    now_s = 100.0
    outage = Outage(logging.getLogger("test"), "beats", clock=lambda: now_s)
    outage.over()
    for _ in range(30):
        outage.failed(RuntimeError("no broker"))
        now_s += 0.2
    outage.over()
    outage.over()
    assert caplog.messages == [
        "beats fail, until further notice: no broker",
        "beats work again, after 30 failures in 6.0 s",
    ]
