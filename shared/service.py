"""How every service makes itself known: by its traces, its metrics, its management endpoint and its heartbeats."""

from collections.abc import Callable

from shared.heartbeats import Heart
from shared.lifetime import Lifetime
from shared.settings import MeshSettings
from shared.telemetry import start_telemetry
from shared.telemetry.management import serve_management
from shared.telemetry.metrics import Metrics
from shared.topics import Service


async def appear(
    life: Lifetime, settings: MeshSettings, service: Service, *, steps: Callable[[], int] | None = None
) -> tuple[Heart, Metrics]:
    """To operators, before anything is asked of the log. The heart is silent until `beat`; `steps` counts its engine's.

    Raises SettingsError when the management port is taken.
    """
    life.at_end_blocking("traces", start_telemetry(settings, service, settings.service_id))
    metrics = Metrics(service, settings.service_id)
    heart = Heart(settings, service, settings.service_id, steps=steps, metrics=metrics)
    await serve_management(life, settings, metrics, lambda: heart.beat)
    return heart, metrics


def beat(life: Lifetime, heart: Heart) -> None:
    """Appear to the other services too; where the log forbids it, the service ends."""
    heart.start()
    life.at_end_blocking("heartbeats", heart.stop)
    life.spawn("signs of life", heart.failed())
