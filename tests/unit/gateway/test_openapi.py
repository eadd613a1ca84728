"""The published document: what it says is what is served, and what is published is what it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from services.gateway.api import replies
from services.gateway.api.openapi import document
from services.gateway.api.surface import OPERATIONS, PUBLISHED, http_routes, written

GOLDEN = sorted((Path(__file__).resolve().parents[2] / "golden" / "cases").glob("*.json"))


def test_the_published_document_is_what_the_code_says() -> None:
    assert PUBLISHED.read_text(encoding="utf-8") == written(), "write docs/openapi.json again: make openapi"


def test_it_is_openapi_3_1() -> None:
    OpenAPIV31SpecValidator(json.loads(written())).validate()


def test_every_operation_has_a_name_and_a_row_of_its_own() -> None:
    assert len({operation.name for operation in OPERATIONS}) == len(OPERATIONS)
    assert len({(operation.method, operation.path) for operation in OPERATIONS}) == len(OPERATIONS)


def test_every_row_is_a_route_and_described() -> None:
    paths = document(OPERATIONS)["paths"]
    described = {(method.upper(), path) for path, methods in paths.items() for method in methods}
    routed = {(method, route.path_format) for route in http_routes() for method in (route.methods or set()) - {"HEAD"}}
    assert described == routed


def test_every_error_has_the_envelope_and_every_reply_its_id() -> None:
    found = document(OPERATIONS)
    for path, methods in found["paths"].items():
        for operation in methods.values():
            for status, reply in operation["responses"].items():
                assert "x-request-id" in reply["headers"], (path, status)
                if int(status) >= 400 and path != "/readyz":
                    assert reply["content"]["application/json"]["schema"]["$ref"].endswith("/ErrorEnvelope")


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_replies_of_the_golden_cases_are_as_described(path: Path) -> None:
    for response in _responses(json.loads(path.read_text(encoding="utf-8"))):
        replies.Response.model_validate(response)


def test_the_golden_cases_hold_replies() -> None:
    held = [response for path in GOLDEN for response in _responses(json.loads(path.read_text(encoding="utf-8")))]
    assert {response["status"] for response in held} >= {"in_progress", "completed", "incomplete", "failed"}


def _responses(value: Any) -> Any:
    """Every Response object inside, also in the events that clients get as text."""
    if isinstance(value, str) and value.startswith('{"type":'):
        yield from _responses(json.loads(value))
    elif isinstance(value, dict):
        if value.get("object") == "response":
            yield value
        else:
            for inner in value.values():
                yield from _responses(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _responses(inner)
