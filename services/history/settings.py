"""Settings of the history service."""

from pathlib import Path

from pydantic import Field

from shared.settings import MeshSettings


class HistorySettings(MeshSettings):
    """Where the store lies, which model's tokenizer counts, and how patient the service is."""

    data_dir: Path = Field(Path(".chatmesh"), description="folder of the embedded store")
    model: str = Field("", description="the model whose tokenizer counts prompts; empty: the bundled default")
    parent_wait_s: float = Field(11.0, ge=0, description="how long to wait for a previous response that still runs")
    max_in_flight: int = Field(256, ge=1, le=10_000, description="requests of the control plane handled at once")

    @property
    def sqlite_file(self) -> Path:
        """The embedded store's one file."""
        return self.data_dir / "history.sqlite3"
