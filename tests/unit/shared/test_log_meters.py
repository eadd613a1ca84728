"""What the log's readers and writers show, and that lag is read from what a consumer knows without asking anybody."""

import time
from types import SimpleNamespace
from typing import Any

import pytest
from aiokafka import TopicPartition
from prometheus_client import generate_latest

from shared.log.meters import ReaderMeter, WriterMeter, lags
from shared.telemetry.metrics import Metrics
from shared.topics import DEAD_LETTERS, EVENTS, JOURNAL, REGISTRY, Outsider, Service


def text(metrics: Metrics) -> str:
    return generate_latest(metrics.registry).decode()


def consumer(states: dict[int, tuple[int | None, int | None]] | None) -> Any:
    """As aiokafka's consumer knows its partitions: number → (position, end); None: it has no assignment."""
    assignment = None
    if states is not None:
        known = {
            TopicPartition(EVENTS.name, number): SimpleNamespace(_position=position, highwater=end)
            for number, (position, end) in states.items()
        }
        assignment = SimpleNamespace(tps=frozenset(known), state_value=known.__getitem__)
    return SimpleNamespace(_subscription=SimpleNamespace(subscription=SimpleNamespace(assignment=assignment)))


@pytest.mark.parametrize(
    ("reader", "ends", "expected"),
    [
        (None, {0: 9}, {}),
        (SimpleNamespace(_subscription=SimpleNamespace(subscription=None)), {}, {}),
        (consumer(None), {}, {}),
        (consumer({0: (5, 9), 1: (9, 9)}), {}, {0: 4, 1: 0}),
        (consumer({0: (None, 9), 1: (9, None)}), {0: 9}, {}),
        (consumer({0: (12, 9)}), {}, {0: 0}),  # sought behind an end that was fetched before
        (consumer({0: (5, 9), 1: (5, None)}), {0: 20, 1: 6}, {0: 15, 1: 1}),
        (consumer({0: (5, 9)}), {0: 8}, {0: 4}),  # the embedded broker understates ends
    ],
    ids=[
        "none",
        "not subscribed",
        "not assigned",
        "behind and not",
        "not known yet",
        "past",
        "asked for",
        "understated",
    ],
)
def test_lag_is_what_is_known(reader: Any, ends: dict[int, int], expected: dict[int, int]) -> None:
    assert lags(reader, {TopicPartition(EVENTS.name, number): end for number, end in ends.items()}) == expected


def test_a_reader_shows_its_lag_until_it_leaves() -> None:
    metrics = Metrics(Service.HISTORY)
    meter = ReaderMeter(metrics, EVENTS, "history.recorder")
    meter.watch(lambda: consumer({3: (5, 9)}))
    line = (
        'chatmesh_consumer_lag_records{messaging_consumer_group_name="history.recorder",'
        'messaging_destination_name="responses.events",messaging_destination_partition_id="3"} 4.0'
    )
    assert line in text(metrics)
    meter.leave()
    assert line not in text(metrics)


def test_a_reader_counts_records_and_replacements_from_zero() -> None:
    metrics = Metrics(Service.HISTORY)
    meter = ReaderMeter(metrics, EVENTS)
    topic = '{messaging_destination_name="responses.events"} '
    assert f"chatmesh_consumer_heals_total{topic}0.0" in text(metrics)
    meter.read(3)
    meter.read(0)
    meter.healed()
    shown = text(metrics)
    assert f"messaging_client_consumed_messages_total{topic}3.0" in shown
    assert f"chatmesh_consumer_heals_total{topic}1.0" in shown


def test_a_writer_counts_what_was_acknowledged_and_what_was_not() -> None:
    metrics = Metrics(Service.INFERENCE)
    lane = WriterMeter(metrics, Service.INFERENCE).lane(JOURNAL)
    lane.sent(4, time.perf_counter() - 0.02)
    lane.failed(TimeoutError())
    shown = text(metrics)
    sent = 'messaging_client_sent_messages_total{error_type="%s",messaging_destination_name="responses.journal"} %s'
    assert sent % ("", "4.0") in shown
    assert sent % ("TimeoutError", "1.0") in shown
    labels = '{messaging_destination_name="responses.journal",messaging_operation_name="send"} '
    assert f"messaging_client_operation_duration_seconds_count{labels}1.0" in shown
    total_s = float(shown.split(f"messaging_client_operation_duration_seconds_sum{labels}")[1].split()[0])
    assert 0.02 <= total_s < 10


@pytest.mark.parametrize("source", sorted(DEAD_LETTERS))
def test_a_dead_letter_counts_for_the_topic_that_it_came_from(source: str) -> None:
    topic = DEAD_LETTERS[source]
    (service, *_) = (party for party in sorted(topic.producers) if party in set(Service))
    metrics = Metrics(Service(service))
    meter = WriterMeter(metrics, Service(service))
    line = f'chatmesh_dead_letters_total{{messaging_destination_name="{source}"}} '
    assert line + "0.0" in text(metrics)
    meter.lane(topic).sent(2, time.perf_counter())
    assert line + "2.0" in text(metrics)


@pytest.mark.parametrize("source", sorted(DEAD_LETTERS))
def test_a_letter_that_is_lost_counts_apart(source: str) -> None:
    (service, *_) = (party for party in sorted(DEAD_LETTERS[source].producers) if party in set(Service))
    metrics = Metrics(Service(service))
    meter = WriterMeter(metrics, Service(service))
    line = f'chatmesh_lost_dead_letters_total{{messaging_destination_name="{source}"}} '
    assert line + "0.0" in text(metrics)
    meter.letter_lost(REGISTRY[source])
    assert line + "1.0" in text(metrics)
    assert f'chatmesh_dead_letters_total{{messaging_destination_name="{source}"}} 0.0' in text(metrics)


def test_who_is_no_service_measures_for_nobody() -> None:
    WriterMeter(None, Outsider.OPERATOR).lane(JOURNAL).sent(1, time.perf_counter())
    ReaderMeter(None, EVENTS).read(1)
