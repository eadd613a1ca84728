"""Any store, with each of its operations timed."""

import time
from collections.abc import Awaitable, Callable
from functools import wraps
from inspect import iscoroutinefunction
from typing import Any, cast

from prometheus_client import Histogram

from services.history.stores.port import Store
from shared.telemetry.metrics import STORE_DURATION, Metrics

_NO_ERROR = ""

Operation = Callable[..., Awaitable[Any]]


def measured(store: Store, metrics: Metrics) -> Store:
    """The same store; how long each operation takes, and by what error it ends, goes to `metrics`."""
    return cast(Store, _Measured(store, metrics.histogram(STORE_DURATION)))


class _Measured:
    """Every coroutine method of the store under its own name, whatever methods the port may get."""

    def __init__(self, store: Store, durations: Histogram) -> None:
        self._store = store
        self._durations = durations

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._store, name)
        if not iscoroutinefunction(found):
            return found
        timed = self._timed(found)
        setattr(self, name, timed)  # asked for once
        return timed

    def _timed(self, operation: Operation) -> Operation:
        @wraps(operation)
        async def timed(*args: Any, **options: Any) -> Any:
            began_s, error_type = time.perf_counter(), _NO_ERROR
            try:
                return await operation(*args, **options)
            except BaseException as error:
                error_type = type(error).__name__
                raise
            finally:
                labels = self._store.system, operation.__name__, error_type
                self._durations.labels(*labels).observe(time.perf_counter() - began_s)

        return timed
