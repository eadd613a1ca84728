"""What can be known to fail before anything is started."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager

from deploy.brokers.ports import can_bind
from deploy.local.announced import run_lock
from deploy.local.errors import RunError
from deploy.local.holding import HeldError, Told, held
from deploy.local.settings import LocalSettings
from deploy.local.targets import management_ports
from shared.chat.sources import locate_model


def check(settings: LocalSettings) -> None:
    """Raises RunError for a taken port, and ModelNotFoundError for a model that is not there."""
    if not can_bind(settings.port):
        raise RunError(
            f"port {settings.port} is taken by another program; choose another one: PORT={settings.port + 1} make run"
        )
    if settings.management_port:
        management_ports(settings.management_port)
    locate_model(settings.model)


@contextmanager
def only_run(settings: LocalSettings) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Hold the data folder for this run. Raises RunError that names the run that holds it.

    Within the block a call tells others by which variables they reach the run's broker (`running_environment`).
    """
    address = settings.address
    with ExitStack() as holding:
        try:
            tell = holding.enter_context(held(run_lock(settings.data_dir), {"address": address, "environment": {}}))
        except HeldError as error:
            raise RunError(_already_running(error.holder)) from error
        except OSError as error:
            raise RunError(f"cannot write to {settings.data_dir} (CHATMESH_DATA_DIR): {error}") from error
        yield lambda environment: tell({"address": address, "environment": dict(environment)})


def _already_running(holder: Told | None) -> str:
    if holder is None:
        return "chatmesh is being started by another process right now"
    return (
        f"chatmesh already runs here: pid {holder['pid']}, {holder['address']}. End it with Ctrl-C in its terminal or "
        f"`kill {holder['pid']}`; a second one beside it needs its own CHATMESH_DATA_DIR and PORT"
    )
