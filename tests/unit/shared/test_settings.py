"""Settings fail at start and name the variable."""

import pytest

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


def test_every_setting_is_described() -> None:
    text = describe_settings(MeshSettings)
    assert "KAFKA_BOOTSTRAP_SERVERS" in text
    assert text.count("\n") + 1 == len(MeshSettings.model_fields)
