"""Where the trace UI of a folder listens and keeps its data, and how others on this machine find it."""

from collections.abc import Mapping
from pathlib import Path

from pydantic import Field

from deploy.local.holding import holder_of
from deploy.local.settings import LOOPBACK, LocalSettings

OTLP_ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_DECIDED_BY = (OTLP_ENDPOINT, "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_SDK_DISABLED")
PROJECT = "default"
"""Phoenix's name for what names no project of its own."""


class TraceUiSettings(LocalSettings):
    """The settings of `make trace-ui` and `make trace-check`."""

    trace_ui_port: int = Field(6006, ge=1, le=65535, description="port of the trace UI")

    @property
    def ui_address(self) -> str:
        return f"http://{LOOPBACK}:{self.trace_ui_port}"

    @property
    def ui_dir(self) -> Path:
        return self.data_dir / "trace-ui"

    @property
    def ui_log(self) -> Path:
        return self.log_dir / "trace-ui.log"


def ui_lock(data_dir: Path) -> Path:
    """The file that the trace UI of this data folder holds while it runs."""
    return data_dir / "trace-ui.lock"


def running_ui(data_dir: Path) -> str | None:
    """The address of the trace UI that runs for this data folder; None if there is none."""
    holder = holder_of(ui_lock(data_dir))
    return None if holder is None else str(holder["address"])


def export_environment(environment: Mapping[str, str], data_dir: Path) -> dict[str, str]:
    """What makes services of `make run` export to this folder's trace UI: nothing if none runs, or the user decided."""
    address = running_ui(data_dir)
    if address is None or any(environment.get(name) for name in _DECIDED_BY):
        return {}
    return {OTLP_ENDPOINT: address}
