"""Suites that a run demands: what cannot run then fails instead of being skipped."""

import os
from typing import NoReturn

import pytest

from deploy.brokers import jvm
from deploy.brokers.select import KAFKA

REQUIRE_BROKERS = "CHATMESH_REQUIRE_BROKERS"


def named_in(variable: str) -> set[str]:
    """The suites that a variable demands."""
    return {name for part in os.environ.get(variable, "").split(",") if (name := part.strip())}


def require_jvm(what: str) -> None:
    """Where Java or Maven is missing, skip a test that starts Apache Kafka itself, with the reason, or fail it where
    the suite on kafka is demanded. `what` needs them: "a secured Apache Kafka"."""
    if missing := jvm.missing_tools():
        _cannot_run(KAFKA, f"{what} needs {' and '.join(missing)}")


def _cannot_run(suite: str, trouble: str) -> NoReturn:
    if suite in named_in(REQUIRE_BROKERS):
        pytest.fail(f"{REQUIRE_BROKERS} asks for the suite on {suite}: {trouble}")
    pytest.skip(trouble)
