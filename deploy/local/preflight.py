"""What can be known to fail before anything is started."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from deploy.brokers.ports import can_bind
from deploy.local.errors import RunError
from deploy.local.holding import HeldError, Told, held, holder_of
from deploy.local.settings import LocalSettings
from shared.chat.sources import locate_model


def check(settings: LocalSettings) -> None:
    """Raises RunError for a taken port, and ModelNotFoundError for a model that is not there."""
    if not can_bind(settings.port):
        raise RunError(
            f"port {settings.port} is taken by another program; choose another one: PORT={settings.port + 1} make run"
        )
    locate_model(settings.model)


@contextmanager
def only_run(settings: LocalSettings) -> Iterator[Callable[[Mapping[str, str]], None]]:
    """Hold the data folder for this run. Raises RunError that names the run that holds it.

    Within the block a call tells others by which variables they reach the run's broker (`running_environment`).
    """
    address = settings.address
    with ExitStack() as holding:
        try:
            tell = holding.enter_context(held(_run_lock(settings.data_dir), {"address": address, "environment": {}}))
        except HeldError as error:
            raise RunError(_already_running(error.holder)) from error
        except OSError as error:
            raise RunError(f"cannot write to {settings.data_dir} (CHATMESH_DATA_DIR): {error}") from error
        yield lambda environment: tell({"address": address, "environment": dict(environment)})


def running_environment(data_dir: Path) -> dict[str, str]:
    """The variables by which a program reaches the broker of the run that holds this data folder; empty if none does,
    or its broker is not up yet."""
    holder = holder_of(_run_lock(data_dir))
    return {} if holder is None else dict(holder["environment"])


def running_address(data_dir: Path) -> str | None:
    """Where the gateway of the run that holds this data folder listens, or will; None if there is no run."""
    holder = holder_of(_run_lock(data_dir))
    return None if holder is None else str(holder["address"])


def _run_lock(data_dir: Path) -> Path:
    return data_dir / "run.lock"


def _already_running(holder: Told | None) -> str:
    if holder is None:
        return "chatmesh is being started by another process right now"
    return (
        f"chatmesh already runs here: pid {holder['pid']}, {holder['address']}. End it with Ctrl-C in its terminal or "
        f"`kill {holder['pid']}`; a second one beside it needs its own CHATMESH_DATA_DIR and PORT"
    )
