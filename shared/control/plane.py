"""A service's part in the control plane, through FastStream: its subscriptions, over one broker object."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence

from aiokafka.errors import KafkaError
from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from shared.control.subscription import Subscription
from shared.errors import LogError
from shared.log import RawRecord
from shared.log.access import RenewingContext, trouble
from shared.log.admin import check_rights
from shared.log.clients import connection_options
from shared.rights import rights_to_share
from shared.settings import MeshSettings
from shared.telemetry.metrics import Metrics
from shared.topics import CONTROL_GROUPS, Service, Topic

log = logging.getLogger(__name__)

_RIGHTS_EVERY_S = 10.0
HAND_OVER_S = 0.5
"""Nearly every request takes milliseconds. One that waits for something waits as well at another replica, and while
this one stays in the group without taking anything, nobody takes what comes to its partitions."""

_SASL: dict[str, type[SASLPlaintext | SASLScram256 | SASLScram512]] = {
    "PLAIN": SASLPlaintext,
    "SCRAM-SHA-256": SASLScram256,
    "SCRAM-SHA-512": SASLScram512,
}

Handler = Callable[[RawRecord], Awaitable[None]]


class ControlPlane:
    """Takes each topic's records to its handler, up to `max_in_flight` of a topic at once. A handler returns when its
    record needs no second try; what it raises ends the service."""

    def __init__(
        self,
        settings: MeshSettings,
        service: Service,
        handlers: Sequence[tuple[Topic, Handler]],
        *,
        max_in_flight: int,
        metrics: Metrics | None = None,
    ) -> None:
        self._settings = settings
        self._rights = [right for topic, _ in handlers for right in rights_to_share(CONTROL_GROUPS[topic.name])]
        self._broker = KafkaBroker(
            **connection_options(settings),
            security=_security(settings),
            consumer_only=True,
            allow_auto_create_topics=False,
            logger=_faststream_log(service),
            apply_types=False,
        )
        self._subscriptions = [
            Subscription(self._broker, settings, service, topic, handle, max_in_flight=max_in_flight, metrics=metrics)
            for topic, handle in handlers
        ]

    async def start(self) -> None:
        """Join the groups. Raises BrokerUnavailableError."""
        try:
            # Side by side, unlike `broker.start()`: a broker lets each new group wait seconds for more members.
            await self._broker.connect()
            await asyncio.gather(*(subscription.start() for subscription in self._subscriptions))
        except (KafkaError, TimeoutError) as error:
            await self._leave()
            raise await trouble(self._settings, "read the control plane", error) from error

    async def stop(self) -> None:
        """Let what runs end, for HAND_OVER_S at most, then leave the groups: the rest is another replica's."""
        await asyncio.gather(*(subscription.intake.close(HAND_OVER_S) for subscription in self._subscriptions))
        await self._leave()

    async def _leave(self) -> None:
        await asyncio.gather(*(subscription.leave() for subscription in self._subscriptions))
        await self._broker.stop()

    async def watch(self) -> None:
        """Returns never; heals what stands still, raises what no retry can mend."""
        await asyncio.gather(self._stay_allowed(), *(subscription.watch() for subscription in self._subscriptions))

    async def _stay_allowed(self) -> None:
        """FastStream would log what the broker forbids, and ask again for ever. Raises AccessDeniedError."""
        while self._settings.has_principal:
            await asyncio.sleep(_RIGHTS_EVERY_S)
            try:
                await check_rights(self._settings, self._rights)
            except LogError as error:
                log.debug("cannot ask for rights now: %s", error)


def _security(settings: MeshSettings) -> BaseSecurity | None:
    """How FastStream's clients get in, in its own words; None where everybody is let in."""
    context = RenewingContext.of(settings) if settings.uses_tls else None
    if settings.uses_sasl:
        kind = _SASL[settings.sasl_mechanism]
        return kind(settings.sasl_username, settings.kafka_password, ssl_context=context, use_ssl=settings.uses_tls)
    return None if context is None else BaseSecurity(ssl_context=context)


def _faststream_log(service: Service) -> logging.Logger:
    """Without a logger FastStream keeps the errors of its polling loop to itself; its warnings are about defaults."""
    logger = logging.getLogger(f"faststream.{service.value}")
    logger.setLevel(logging.ERROR)
    return logger
