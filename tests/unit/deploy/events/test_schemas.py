"""JSON Schemas: what our encoder writes is valid, what lacks a field or has another kind of value is not."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from deploy.events.asyncapi import EXAMPLES
from deploy.events.schemas import folder_of, record_schema, topic_schema, type_names
from shared.topics import REGISTRY, Topic

CASES = [(topic, tag) for topic in REGISTRY.values() for tag in type_names(topic)]
ids = pytest.mark.parametrize(("topic", "tag"), CASES, ids=[f"{topic.name}-{tag}" for topic, tag in CASES])


def example(topic: Topic, tag: str) -> Any:
    return json.loads(Path(EXAMPLES / folder_of(topic) / f"{tag}.json").read_text())


@ids
def test_examples_are_valid(topic: Topic, tag: str) -> None:
    for schema in (record_schema(topic, tag), topic_schema(topic)):
        Draft202012Validator.check_schema(schema)
        Draft202012Validator(schema).validate(example(topic, tag))


@ids
def test_what_lacks_a_field_or_has_another_kind_of_value_is_not(topic: Topic, tag: str) -> None:
    schema = record_schema(topic, tag)
    validator = Draft202012Validator(schema)
    assert "type" in schema["required"]
    for field in schema["required"]:
        lacking = deepcopy(example(topic, tag))
        del lacking[field]
        assert not validator.is_valid(lacking), f"{tag} without {field}"
    for field in example(topic, tag):
        retyped = {**example(topic, tag), field: [[object]]}
        assert not validator.is_valid(retyped), f"{tag} with another kind of {field}"


@ids
def test_a_field_of_the_next_release_disturbs_nobody(topic: Topic, tag: str) -> None:
    newer = {**example(topic, tag), "added_later": {"a": 1}}
    assert Draft202012Validator(record_schema(topic, tag)).is_valid(newer)


def test_a_record_of_one_topic_is_none_of_another() -> None:
    events, verdicts = REGISTRY["responses.events"], REGISTRY["moderation.verdicts"]
    assert not Draft202012Validator(topic_schema(verdicts)).is_valid(example(events, "completed"))
