"""Settings of the history service."""

from pathlib import Path

from pydantic import Field, SecretStr

from services.history.stores.port import Retention
from shared.settings import MeshSettings, env


class HistorySettings(MeshSettings):
    """Where the store lies, which model's tokenizer counts, and how patient the service is."""

    data_dir: Path = Field(Path(".chatmesh"), description="folder of the embedded store")
    mongodb_url: SecretStr = env("MONGODB_URL", "", "mongodb://host:port/database: the store; empty: the embedded one")
    response_days: int = Field(30, ge=0, description="how long an ended response is kept; 0: for ever")
    model: str = Field("", description="the model whose tokenizer counts prompts; empty: the bundled default")
    parent_wait_s: float = Field(11.0, ge=0, description="how long to wait for a previous response that still runs")
    max_in_flight: int = Field(256, ge=1, le=10_000, description="requests of the control plane handled at once")

    @property
    def retention(self) -> Retention:
        """How long the store keeps what."""
        return Retention.of_days(self.response_days)

    @property
    def sqlite_file(self) -> Path:
        """The embedded store's one file."""
        return self.data_dir / "history.sqlite3"
