"""aiokafka's connections on uvloop.

asyncio takes what is written to a lost connection, and drops it; uvloop raises RuntimeError (MagicStack/uvloop#506).
aiokafka expects OSError there and nothing else (aio-libs/aiokafka#1038): a heartbeat sent between the loss and the
moment in which the connection's reader hears of it would end a member of a group for good, a batch the producer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import aiokafka.conn
from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError, KafkaError


class Connection(AIOKafkaConnection):  # type: ignore[misc]
    """A connection that is broken, and says so, once its socket is closed: sending raises KafkaConnectionError."""

    def send(self, request: Any, expect_response: bool = True) -> Any:
        with self._breaking():
            return super().send(request, expect_response)

    def _send_sasl_token(self, payload: bytes, expect_response: bool = True) -> Any:
        with self._breaking():
            return super()._send_sasl_token(payload, expect_response)

    @contextmanager
    def _breaking(self) -> Iterator[None]:
        try:
            yield
        except KafkaError:  # a RuntimeError too
            raise
        except RuntimeError as error:
            self.close(reason=CloseReason.CONNECTION_BROKEN)
            raise KafkaConnectionError(f"Connection at {self.host}:{self.port} broken: {error}") from error


aiokafka.conn.AIOKafkaConnection = Connection
"""Its clients take no class for their connections: `create_conn` names this one."""
