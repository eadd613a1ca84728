"""What a deployment says to a service, held against what the service reads."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from unittest import mock

from pydantic import SecretStr

from services.gateway.settings import GatewaySettings
from services.history.settings import HistorySettings
from services.inference.settings import InferenceSettings
from services.moderation.settings import ModerationSettings
from shared.settings import MeshSettings, load_settings, variable_of

SETTINGS: Mapping[str, type[MeshSettings]] = {
    "gateway": GatewaySettings,
    "moderation": ModerationSettings,
    "inference": InferenceSettings,
    "history": HistorySettings,
}
OURS = ("CHATMESH_", "KAFKA_", "MONGODB_")
_SPEAKS_FOR_ITSELF = {"PORT"}


def variables_of(settings: type[MeshSettings]) -> set[str]:
    """Every variable that these settings are read from, files of secrets included."""
    found = set()
    for name, info in settings.model_fields.items():
        variable = variable_of(info, name)
        found |= {variable, f"{variable}_FILE"} if info.annotation is SecretStr else {variable}
    return found


def unread(settings: type[MeshSettings], environment: Mapping[str, str]) -> set[str]:
    """Variables of ours that nobody reads: settings leave unknown ones alone, so that a typing error goes unseen."""
    ours = {name for name in environment if name.startswith(OURS) or name in _SPEAKS_FOR_ITSELF}
    return ours - variables_of(settings)


def load_from(settings: type[MeshSettings], environment: Mapping[str, str]) -> MeshSettings:
    """The settings in an environment that is this one and nothing of our own's. Raises SettingsError."""
    with _only(environment):
        return load_settings(settings)


@contextmanager
def _only(environment: Mapping[str, str]) -> Iterator[None]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(OURS) and name != "PORT"}
    with mock.patch.dict(os.environ, {**kept, **environment}, clear=True):
        yield
