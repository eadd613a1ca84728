"""The topic registry: every record has a committed example that decodes, and each check can fail."""

import contextlib
import json
from pathlib import Path

import pytest

from shared.errors import MalformedRecordError, TopicError, UnknownRecordError
from shared.records import Attached, Cancel, Completed, Cut, Heartbeat, Record, Tokens, Usage
from shared.records.codec import encode_headers, encode_value
from shared.topics import (
    DEAD_LETTERS,
    EVENTS,
    HEARTBEATS,
    JOBS,
    JOURNAL,
    POLICIES,
    REGISTRY,
    VERDICTS,
    Outsider,
    Party,
    Service,
    Topic,
    Visibility,
    assert_may_consume,
    assert_may_produce,
    assert_may_redrive,
)

EXAMPLES = Path(__file__).resolve().parents[3] / "shared" / "records" / "examples"


def example_folder(topic: Topic) -> Path:
    return EXAMPLES / ("dlq" if topic.name.endswith(".dlq") else topic.name)


def missing_examples(topic: Topic, folder: Path) -> set[str]:
    wanted = {f"{record.__struct_config__.tag}.json" for record in topic.record_types}
    return wanted - {path.name for path in folder.glob("*.json")}


@pytest.mark.parametrize("topic", REGISTRY.values(), ids=lambda t: t.name)
def test_every_record_type_has_an_example_that_decodes(topic: Topic) -> None:
    folder = example_folder(topic)
    assert missing_examples(topic, folder) == set()
    for path in folder.glob("*.json"):
        record = topic.decoder.decode(path.read_bytes())
        assert json.loads(encode_value(record)) == json.loads(path.read_text()), path.name


def test_the_check_for_examples_can_fail(tmp_path: Path) -> None:
    assert missing_examples(JOURNAL, tmp_path) >= {"requested.json", "tokens.json"}


@pytest.mark.parametrize("topic", REGISTRY.values(), ids=lambda t: t.name)
def test_who_is_not_named_may_not_touch_a_topic(topic: Topic) -> None:
    record = topic.decoder.decode(next(example_folder(topic).glob("*.json")).read_bytes())
    for party in (*Service, *Outsider):
        if party in topic.producers:
            assert_may_produce(topic, party, record)
        else:
            with pytest.raises(TopicError, match="may not produce"):
                assert_may_produce(topic, party, record)
        if party in topic.consumers or (isinstance(party, Outsider) and topic.visibility is Visibility.PUBLIC):
            assert_may_consume(topic, party)
        else:
            with pytest.raises(TopicError, match="may not consume"):
                assert_may_consume(topic, party)


def test_outsiders_may_read_what_is_public_and_operators_also_signs_of_life_and_dead_letters() -> None:
    public = {topic.name for topic in REGISTRY.values() if topic.visibility is Visibility.PUBLIC}
    assert readable_by(Outsider.CONSUMER) == public == {"responses.events", "conversations.events", VERDICTS.name}
    assert readable_by(Outsider.OPERATOR) == public | {HEARTBEATS.name} | {
        letters.name for letters in DEAD_LETTERS.values()
    }
    assert Outsider.CONSUMER not in set().union(*(topic.producers for topic in REGISTRY.values()))


def readable_by(party: Party) -> set[str]:
    found = set()
    for topic in REGISTRY.values():
        with contextlib.suppress(TopicError):
            assert_may_consume(topic, party)
            found.add(topic.name)
    return found


def test_only_operators_send_dead_letters_back_and_only_where_some_can_go_back() -> None:
    assert_may_redrive(EVENTS, Outsider.OPERATOR)
    nowhere = [(topic, Outsider.OPERATOR) for topic in REGISTRY.values() if not topic.sent_back]
    assert {HEARTBEATS.name, JOBS.name, DEAD_LETTERS[EVENTS.name].name} <= {topic.name for topic, _ in nowhere}
    for topic, party in ((EVENTS, Service.MODERATION), (EVENTS, Outsider.CONSUMER), *nowhere):
        with pytest.raises(TopicError, match="may not send dead letters back"):
            assert_may_redrive(topic, party)


def test_what_is_sent_back_is_a_record_of_a_topic_that_has_dead_letters() -> None:
    for topic in REGISTRY.values():
        assert set(topic.sent_back) <= set(topic.record_types)
        assert not topic.sent_back or topic.name in DEAD_LETTERS


def test_a_topic_refuses_records_of_another() -> None:
    beat = Heartbeat(service="gateway", id="g", state="ready", seq=1)
    with pytest.raises(TopicError, match="does not carry"):
        assert_may_produce(EVENTS, Service.MODERATION, beat)


def test_only_screened_text_is_public_and_only_the_owner_writes_it() -> None:
    assert EVENTS.visibility is Visibility.PUBLIC
    assert EVENTS.producers == {Service.MODERATION}
    assert JOURNAL.visibility is Visibility.INTERNAL
    assert Service.GATEWAY not in JOURNAL.consumers


def test_dead_letters_are_internal_and_no_services_input() -> None:
    for topic in DEAD_LETTERS.values():
        assert topic.visibility is Visibility.INTERNAL
        assert topic.consumers == {Outsider.OPERATOR}


def test_headers_are_cloudevents_with_the_trace() -> None:
    record = Tokens(response_id="resp_1", claim="c", position=3, ids=[1], pieces=["a"])
    headers = dict(encode_headers(record, "inference-1", {"traceparent": "00-aa-bb-01"}))
    assert headers["ce_specversion"] == b"1.0"
    assert headers["ce_type"] == b"chatmesh.tokens"
    assert headers["ce_source"] == b"/chatmesh/inference-1"
    assert headers["ce_subject"] == b"resp_1"
    assert headers["traceparent"] == b"00-aa-bb-01"
    assert {"ce_id", "ce_time", "content-type", "ce_schemaversion"} <= headers.keys()


@pytest.mark.parametrize(
    ("value", "headers", "error"),
    [
        (b"{", (), MalformedRecordError),
        (b"\xff\xfe", (), MalformedRecordError),
        (None, (), MalformedRecordError),
        (b'{"type":"tokens"}', (), MalformedRecordError),
        (b'{"type":"brand_new","response_id":"r"}', (), UnknownRecordError),
        (b'{"type":"cancel","response_id":"r"}', (("ce_schemaversion", b"9"),), UnknownRecordError),
    ],
)
def test_what_cannot_be_read_says_why(
    value: bytes | None, headers: tuple[tuple[str, bytes], ...], error: type[Exception]
) -> None:
    with pytest.raises(error):
        JOURNAL.decoder.decode(value, headers)


def test_readers_ignore_fields_of_the_next_release() -> None:
    record = JOURNAL.decoder.decode(
        b'{"type":"cancel","response_id":"r","added_later":1}', (("ce_schemaversion", b"2"),)
    )
    assert record.response_id == "r"


def test_heartbeats_have_one_partition_so_that_their_order_is_total() -> None:
    assert HEARTBEATS.partitions == 1


def test_policies_are_kept_as_long_as_anybody_may_ask_for_them_and_in_one_order() -> None:
    assert POLICIES.broker_config(1)["cleanup.policy"] == "compact"
    assert POLICIES.partitions == 1


USAGE = Usage(input_tokens=1, output_tokens=1)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (
            Completed(response_id="r", epoch=1, tenant="t", text="", usage=USAGE, finished_ms=1),
            Completed(response_id="r", epoch=3, tenant="t", text="a", usage=USAGE, finished_ms=2),
        ),
        (Attached(response_id="r", gateway="g", number=1), Attached(response_id="r", gateway="g", number=3)),
        (Cancel(response_id="r"), Cancel(response_id="r", reason="abandoned")),
        (Cut(response_id="r", reason="deadline"), Cut(response_id="r", reason="failed")),
        (Cut(response_id="r", reason="policy"), Cut(response_id="r", reason="policy", stage="input")),
    ],
)
def test_what_one_source_says_at_different_times_has_different_ids(one: Record, other: Record) -> None:
    assert one.uid != other.uid
