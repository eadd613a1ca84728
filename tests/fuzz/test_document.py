"""Schemathesis against the published document: what it says is what comes, for what it allows and what it forbids."""

import asyncio
import os
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.generation.case import Case
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
)
from schemathesis.specs.openapi.schemas import OpenApiSchema

from services.gateway.api.openapi import document
from services.gateway.api.surface import OPERATIONS
from tests.fuzz.target import BETA, REPLY_S, Target

SCALE = float(os.environ.get("CHATMESH_FUZZ_SCALE", "1"))
SEED = int(os.environ.get("CHATMESH_FUZZ_SEED", "1"))
_PER_OPERATION = 40
_WITH_BODY = 160
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_headers_conformance,
    response_schema_conformance,
    negative_data_rejection,
]
NAMES = [operation.name for operation in OPERATIONS]


@pytest.fixture(scope="module")
def schema() -> OpenApiSchema:
    """The document as the gateway gives it."""
    loaded: OpenApiSchema = schemathesis.openapi.from_dict(document(OPERATIONS))
    return loaded


@pytest.mark.parametrize("mode", GenerationMode)
@pytest.mark.parametrize("name", NAMES)
def test_replies_are_as_published(
    target: Target, runner: asyncio.Runner, schema: OpenApiSchema, name: str, mode: GenerationMode
) -> None:
    row = next(operation for operation in OPERATIONS if operation.name == name)
    operation = schema.find_operation_by_id(name)
    if mode is GenerationMode.NEGATIVE and not (row.parameters or row.body):
        pytest.skip("there is nothing about this operation that could be wrong")
    session = requests.Session()
    session.headers["authorization"] = f"Bearer {BETA}"

    @seed(SEED)
    @settings(
        max_examples=round((_WITH_BODY if row.body else _PER_OPERATION) * SCALE),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(case=operation.as_strategy(generation_mode=mode))
    def send(case: Case[Any]) -> None:
        target.inputs[f"document {mode.value}"] += 1
        response = case.call(base_url=f"http://127.0.0.1:{target.port}", session=session, timeout=REPLY_S)
        target.statuses[str(response.status_code)] += 1
        case.validate_response(response, checks=CHECKS)
        target.judge_privacy(response.content, repr(case).encode(), BETA)

    send()
