"""What really stands in the log is read by the CloudEvents SDK, on every topic that a mesh wrote to."""

from datetime import datetime, timedelta
from urllib.parse import urlsplit

import pytest
from cloudevents.core.base import BaseCloudEvent
from cloudevents.core.bindings.kafka import KafkaMessage, from_binary_event
from jsonschema import Draft202012Validator

from deploy.events.cloudevents import common_headers
from deploy.events.schemas import topic_schema
from shared.log import RawRecord
from shared.topics import CONVERSATIONS, EVENTS, HEARTBEATS, HISTORY_QUERIES, JOBS, JOURNAL, REPLIES, VERDICTS, Topic
from tests.consumers.conftest import Told
from tests.support.logs import raw_records
from tests.support.mesh import Mesh

pytestmark = pytest.mark.any_broker

WRITTEN = (EVENTS, CONVERSATIONS, VERDICTS, JOURNAL, JOBS, HISTORY_QUERIES, REPLIES, HEARTBEATS)
HEADERS = Draft202012Validator(common_headers(), format_checker=Draft202012Validator.FORMAT_CHECKER)


def event(record: RawRecord) -> BaseCloudEvent:
    """As the SDK reads it; it raises for an attribute that is missing or malformed."""
    assert record.value is not None
    names = [name for name, _ in record.headers]
    assert len(set(names)) == len(names)
    return from_binary_event(KafkaMessage(dict(record.headers), record.key, record.value))


@pytest.mark.parametrize("topic", WRITTEN, ids=lambda topic: topic.name)
async def test_records_are_cloudevents(topic: Topic, mesh: Mesh, told: list[Told]) -> None:
    records = await raw_records(mesh, topic)
    assert records, f"the mesh wrote nothing to {topic.name}"
    values = Draft202012Validator(topic_schema(topic))
    for record in records:
        read = event(record)
        assert read.get_specversion() == "1.0"
        assert read.get_type() == f"chatmesh.{read.get_data()['type']}"
        assert read.get_datacontenttype() == "application/json"
        assert urlsplit(read.get_source()).path.startswith("/chatmesh/")
        assert read.get_subject() == record.key == read.get_extension("partitionkey")
        assert read.get_extension("schemaversion").isdigit()
        time = read.get_time()
        assert isinstance(time, datetime) and time.utcoffset() == timedelta(0)
        HEADERS.validate({name: value.decode() for name, value in record.headers})
        values.validate(read.get_data())


@pytest.mark.parametrize("topic", WRITTEN, ids=lambda topic: topic.name)
async def test_an_id_of_a_source_names_one_event(topic: Topic, mesh: Mesh, told: list[Told]) -> None:
    known: dict[tuple[str, str], tuple[str, object]] = {}
    for record in await raw_records(mesh, topic):
        read = event(record)
        name, said = (read.get_source(), read.get_id()), (read.get_type(), read.get_data())
        assert known.setdefault(name, said) == said, f"{name} names two events"
