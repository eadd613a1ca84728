"""Settings fail at start and name the variable."""

import pytest

from services.gateway.settings import GatewaySettings
from services.history.settings import HistorySettings
from services.inference.settings import InferenceSettings
from services.moderation.settings import ModerationSettings
from shared.errors import SettingsError
from shared.settings import MeshSettings, describe_settings, load_settings


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHATMESH_PARTITIONS", "0"),
        ("CHATMESH_PARTITIONS", "many"),
        ("CHATMESH_LOG_LEVEL", "LOUD"),
        ("CHATMESH_SILENT_AFTER_S", "-1"),
        ("CHATMESH_NAMESPACE", "has space"),
    ],
)
def test_a_wrong_setting_names_its_variable_and_value(
    monkeypatch: pytest.MonkeyPatch, variable: str, value: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(MeshSettings)
    assert variable in str(caught.value)
    assert repr(value) in str(caught.value)


def test_the_broker_keeps_its_usual_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAFKA_BOOTSTRAP_SERVERS", "kafka-1:9092")
    assert load_settings(MeshSettings).bootstrap_servers == "kafka-1:9092"


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        (GatewaySettings, "CHATMESH_DRAIN_GRACE_S"),
        (GatewaySettings, "CHATMESH_API_KEYS"),
        (GatewaySettings, "PORT"),
        (InferenceSettings, "CHATMESH_TENSOR_PARALLEL"),
    ],
)
def test_an_empty_variable_counts_as_none(
    monkeypatch: pytest.MonkeyPatch, settings: type[MeshSettings], variable: str
) -> None:
    monkeypatch.setenv(variable, "")
    assert load_settings(settings) == settings.model_construct()


@pytest.mark.parametrize("settings", [GatewaySettings, ModerationSettings, InferenceSettings, HistorySettings])
def test_every_setting_is_described(settings: type[MeshSettings]) -> None:
    lines = describe_settings(settings).splitlines()
    assert len(lines) == len(settings.model_fields)
    for line in lines:
        variable, default, meaning = line.split(maxsplit=2)
        assert variable.isupper(), line
        assert meaning, line
        assert not default.startswith(("'", "None", "PosixPath")), line
