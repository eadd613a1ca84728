from collections.abc import Callable

import pytest

from shared.ids import new_response_id
from tests.support.quick_end import uvicorn_ends_quickly
from tests.unit.gateway.logs import Log

__all__ = ["uvicorn_ends_quickly"]


@pytest.fixture
def make_log() -> Callable[..., Log]:
    def make(partition: int = 3, unix_ms: int = 1_790_000_000_123, tenant: str = "acme") -> Log:
        return Log(new_response_id(partition, unix_ms=unix_ms), tenant)

    return make


@pytest.fixture
def log(make_log: Callable[..., Log]) -> Log:
    return make_log()
