"""The Helm chart's generated files and the schema of its values. tests/deploy/test_helm.py has what is rendered."""

import json
from functools import cache, reduce
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator
from pydantic import ValidationError

from deploy.kubernetes import __main__ as command
from deploy.kubernetes.crds import schemas_of
from deploy.kubernetes.files import CHART, chart_files
from deploy.kubernetes.values import FIELDS, SETTINGS, values_schema
from deploy.toolbox.unpacking import KUBERNETES
from shared.release import VERSION
from shared.settings import MeshSettings, addresses_of, variable_of

NUMBERS = (0, 1, 9, 10, 64, 65, 4096, 4097)
WORDS = ("SSL", "TLS", "PLAIN", "prod.", "a b", "")
GONE: Any = object()
"""What Helm makes of a null."""
HELD_WHOLE = ("image", "settings", "podDisruptionBudget", "rateLimits")
"""Objects that templates take as they come, or whose every field may be empty."""


def test_generated_files_are_as_the_code_has_them() -> None:
    """If not: `make chart`."""
    stale = [name for name, text in chart_files().items() if (CHART / name).read_text() != text]
    assert stale == []
    generated = {str(path.relative_to(CHART)) for path in (CHART / "files").rglob("*") if path.is_file()}
    assert generated | {"values.schema.json"} == set(chart_files())


def test_the_chart_is_of_this_release_and_for_what_it_is_checked_with() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert chart["appVersion"] == VERSION
    assert chart["kubeVersion"] == f">={KUBERNETES[0].removeprefix('v')}.0-0"


def test_the_command_says_what_is_stale_and_writes_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(command, "CHART", tmp_path)
    assert command.main(["--check"]) == 1
    assert "files/kafka.yaml is stale: run `python -m deploy.kubernetes`" in capsys.readouterr().err
    assert command.main([]) == 0
    assert command.main(["--check"]) == 0
    assert json.loads((tmp_path / "values.schema.json").read_text()) == values_schema()


# -- values --------------------------------------------------------------------------------------------------


def faults(values: dict[str, Any]) -> list[str]:
    """Of values over the chart's own, as Helm puts them together."""
    return [error.message for error in validator().iter_errors(over(own_values(), values))]


@cache
def validator() -> Any:
    return Draft7Validator(values_schema())


@cache
def own_values() -> Any:
    return yaml.safe_load((CHART / "values.yaml").read_text())


def over(base: Any, top: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(top, dict):
        return top
    both = {**base, **{key: over(base.get(key), value) for key, value in top.items()}}
    return {key: value for key, value in both.items() if value is not GONE}


def test_the_schema_is_one_and_the_defaults_keep_to_it() -> None:
    Draft7Validator.check_schema(values_schema())
    assert faults({}) == []


def test_every_value_has_a_type_and_objects_are_closed_and_whole() -> None:
    def walk(schema: Any, path: str) -> None:
        assert schema.keys() & {"type", "enum", "anyOf"}, path
        if "properties" in schema:
            assert schema["additionalProperties"] is False, path
            if not path.endswith(HELD_WHOLE):
                assert schema["required"] == sorted(schema["properties"].keys() - {"global"}), path
            for name, below in schema["properties"].items():
                walk(below, f"{path}.{name}")

    walk(values_schema(), "")


@pytest.mark.parametrize("path", FIELDS)
def test_what_a_service_would_refuse_is_refused_before(path: str) -> None:
    """Numbers on both sides of every bound, and words of which some are meant."""
    cls, name = FIELDS[path]
    default = reduce(lambda below, key: below[key], path.split("."), own_values())
    for value in (True, False) if isinstance(default, bool) else WORDS if isinstance(default, str) else NUMBERS:
        nested = reduce(lambda below, key: {key: below}, reversed(path.split(".")), value)
        assert faults(nested) == [] or not takes(cls, name, value), value
        assert faults(nested) != [] or takes(cls, name, value), value


@pytest.mark.parametrize(
    "text",
    [
        *("a:1", "a:65535", "a.example.com:9092,b.example.com:9093", " a:1 , b:2 ", "[fd00::1]:9092", "10.0.0.1:9092"),
        *("a", ":9092", "a:0", "a:65536", "a:70000", "a:abc", "a:1,", "a:1,,b:2", "a b:1", "a: 1", "SSL://a:9093"),
        *("fd00::1:9092", "[fd00::1:9092", "[]:9092", "a:1;b:2", ",", " ", ", a:1 , ,b:2,"),
    ],
)
def test_the_chart_takes_the_addresses_that_services_take(text: str) -> None:
    refused = faults({"kafka": {"external": {"bootstrapServers": text}}})
    try:
        addresses_of(text)
    except ValueError:
        assert refused
    else:
        assert not refused


def takes(cls: type[MeshSettings], name: str, value: Any) -> bool:
    """Whether the field takes it, whatever others would have to be beside it."""
    field = cls.model_fields[name]
    variable = variable_of(field, name) if field.validation_alias else name
    try:
        cls(**{variable: value})
    except ValidationError as error:
        return not [issue for issue in error.errors() if issue["loc"] == (variable,)]
    return True


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"gateway": {"replica": 3}}, "'replica' was unexpected"),
        ({"gatway": {}}, "'gatway' was unexpected"),
        ({"gateway": {"replicas": "3"}}, "'3' is not of type 'integer'"),
        ({"kafka": {"mode": "amqp"}}, "'amqp' is not one of"),
        ({"history": {"settings": {"CHATMESH_RESPONSE_DAY": 3}}}, "'CHATMESH_RESPONSE_DAY' was unexpected"),
        ({"history": {"settings": {"MONGODB_URL": "mongodb://user:password@host"}}}, "'MONGODB_URL' was unexpected"),
        ({"inference": {"settings": {"CHATMESH_DTYPE": "int4"}}}, "'int4' is not one of"),
        ({"moderation": {"settings": {"CHATMESH_TICK_MS": 1}}}, "1 is less than the minimum of 5"),
        ({"gateway": {"podDisruptionBudget": {"minAvailable": 1, "maxUnavailable": 1}}}, "has too many properties"),
        ({"tracing": {"endpoint": "collector:4317"}}, "does not match"),
        ({"tracing": {"resourceAttributes": {"k8s.pod.name": "mine"}}}, "should not be valid under"),
        ({"tracing": {"resourceAttributes": {"a,b": "c"}}}, "does not match"),
        ({"gateway": {"tolerations": GONE}}, "'tolerations' is a required property"),
        ({"networkPolicy": {"enabled": GONE}}, "'enabled' is a required property"),
        ({"gateway": {"podLabels": {"app.kubernetes.io/name": "mine"}}}, "should not be valid under"),
        ({"kafka": {"strimzi": {"cluster": "x" * 41}}}, "does not match"),
        ({"gateway": {"service": {"port": 0}}}, "0 is less than the minimum of 1"),
        ({"inference": {"gpu": {"resource": ""}}}, "should be non-empty"),
    ],
)
def test_a_wrong_value_is_refused(values: dict[str, Any], said: str) -> None:
    [fault] = faults(values)
    assert said in fault


def test_settings_are_those_of_each_service_but_for_what_the_chart_sets() -> None:
    properties = values_schema()["properties"]
    for service, cls in SETTINGS.items():
        offered = set(properties[service]["properties"]["settings"]["properties"])
        known = {variable_of(field, name) for name, field in cls.model_fields.items()}
        assert offered < known
        assert not [name for name in offered if "SASL" in name or "SSL" in name or "PASSWORD" in name]
        assert "CHATMESH_SHUTDOWN_S" not in offered
        assert "CHATMESH_LOG_LEVEL" in offered


def test_every_value_is_used_by_a_template() -> None:
    """By its own name, or by that of what it stands in, where templates take that whole."""
    templates = "".join(path.read_text() for path in (CHART / "templates").iterdir())
    taken_whole = ("principals", "resources", "strategy", "podDisruptionBudget", "annotations", "labels")

    def walk(values: Any, path: tuple[str, ...]) -> None:
        for name, value in values.items():
            assert name in templates, ".".join((*path, name))
            if isinstance(value, dict) and name not in taken_whole:
                walk(value, (*path, name))

    walk(yaml.safe_load((CHART / "values.yaml").read_text()), ())


# -- custom resources ----------------------------------------------------------------------------------------


def definition(schema: dict[str, Any]) -> dict[str, Any]:
    versions = [
        {"name": name, "storage": name == "v1", "schema": {"openAPIV3Schema": schema}} for name in ("v1beta1", "v1")
    ]
    return {"spec": {"group": "example.com", "names": {"kind": "Thing"}, "versions": versions}}


def test_a_definition_becomes_a_closed_schema_without_words() -> None:
    spec = {
        "type": "object",
        "description": "words",
        "required": ["size"],
        "properties": {
            "size": {"x-kubernetes-int-or-string": True, "type": "string", "pattern": "^[0-9]+"},
            "free": {
                "type": "object",
                "x-kubernetes-preserve-unknown-fields": True,
                "properties": {"a": {"type": "string"}},
            },
            "labels": {"type": "object", "additionalProperties": {"type": "string", "nullable": True}},
        },
    }
    [(name, schema)] = schemas_of(
        definition({"type": "object", "properties": {"spec": spec, "status": {"type": "object"}}})
    )
    assert name == "example.com/thing_v1.json"
    assert schema == {
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "spec": {
                "type": "object",
                "required": ["size"],
                "additionalProperties": False,
                "properties": {
                    "size": {"pattern": "^[0-9]+", "anyOf": [{"type": "integer"}, {"type": "string"}]},
                    "free": {"type": "object", "properties": {"a": {"type": "string"}}},
                    "labels": {"type": "object", "additionalProperties": {"type": ["string", "null"]}},
                },
            }
        },
    }
