"""Settings fail at start and name the variable."""

from pathlib import Path

import pytest
from pydantic import Field, SecretStr

from services.gateway.settings import GatewaySettings
from services.history.settings import HistorySettings
from services.inference.settings import InferenceSettings
from services.moderation.settings import ModerationSettings
from shared.errors import SettingsError
from shared.settings import MeshSettings, addresses_of, describe_settings, load_settings


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CHATMESH_PARTITIONS", "0"),
        ("CHATMESH_PARTITIONS", "many"),
        ("CHATMESH_LOG_LEVEL", "LOUD"),
        ("CHATMESH_SILENT_AFTER_S", "-1"),
        ("CHATMESH_NAMESPACE", "has space"),
        ("CHATMESH_SHUTDOWN_S", "inf"),
        ("CHATMESH_START_TIMEOUT_S", "nan"),
        ("KAFKA_BOOTSTRAP_SERVERS", "localhost:abc"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka"),
        ("KAFKA_BOOTSTRAP_SERVERS", ":9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:70000"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:0"),
        ("KAFKA_BOOTSTRAP_SERVERS", ", ,"),
        ("KAFKA_BOOTSTRAP_SERVERS", "kafka:9092 other:9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "SSL://kafka:9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "::1:9092"),
        ("KAFKA_BOOTSTRAP_SERVERS", "[kafka]:9092"),
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


def test_addresses_are_read_in_one_way() -> None:
    named = addresses_of("kafka-1.example:9092, 10.0.0.7:19092,,[fe80::1]:9093,_x:65535,")
    assert named == [("kafka-1.example", 9092), ("10.0.0.7", 19092), ("fe80::1", 9093), ("_x", 65535)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            {"CHATMESH_HEARTBEAT_INTERVAL_MS": "6000"},
            "CHATMESH_HEARTBEAT_INTERVAL_MS is 6000, and CHATMESH_SESSION_TIMEOUT_MS=6000 is no longer",
        ),
        (
            {"CHATMESH_FETCH_MAX_WAIT_MS": "900", "CHATMESH_REQUEST_TIMEOUT_MS": "800"},
            "CHATMESH_FETCH_MAX_WAIT_MS is 900, and CHATMESH_REQUEST_TIMEOUT_MS=800 is no longer",
        ),
    ],
)
def test_nothing_is_given_up_before_it_could_come(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], said: str
) -> None:
    for variable, value in given.items():
        monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=said):
        load_settings(MeshSettings)


def test_all_that_is_wrong_is_told_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATMESH_MIN_INSYNC_REPLICAS", "2")
    monkeypatch.setenv("KAFKA_SASL_USERNAME", "gateway")
    with pytest.raises(SettingsError, match="MIN_INSYNC_REPLICAS") as caught:
        load_settings(MeshSettings)
    assert "KAFKA_SASL_USERNAME" in str(caught.value)


def test_no_more_copies_are_asked_for_than_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHATMESH_REPLICATION_FACTOR", "3")
    monkeypatch.setenv("CHATMESH_MIN_INSYNC_REPLICAS", "3")
    assert load_settings(MeshSettings).min_insync_replicas == 3
    monkeypatch.delenv("CHATMESH_REPLICATION_FACTOR")
    with pytest.raises(SettingsError, match="MIN_INSYNC_REPLICAS is 3, more copies than CHATMESH_REPLICATION_FACTOR=1"):
        load_settings(MeshSettings)
    monkeypatch.setenv("CHATMESH_CREATE_TOPICS", "false")  # others make them
    assert load_settings(MeshSettings).min_insync_replicas == 3


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


def sasl(**changes: str) -> dict[str, str]:
    return {
        "KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
        "KAFKA_SASL_USERNAME": "gateway",
        "KAFKA_SASL_PASSWORD": "s3cr3t",
        **changes,
    }


@pytest.mark.parametrize(
    ("variables", "told"),
    [
        (sasl(KAFKA_SASL_USERNAME=""), "KAFKA_SASL_USERNAME is missing"),
        (sasl(KAFKA_SASL_PASSWORD=""), "KAFKA_SASL_PASSWORD is missing"),
        (sasl(KAFKA_SASL_PASSWORD_FILE="/etc/hostname"), "unset one of them"),
        (sasl(KAFKA_SECURITY_PROTOCOL="SSL"), "KAFKA_SASL_USERNAME is set, but KAFKA_SECURITY_PROTOCOL=SSL"),
        (sasl(KAFKA_SECURITY_PROTOCOL="TLS"), "KAFKA_SECURITY_PROTOCOL"),
        (sasl(KAFKA_SASL_MECHANISM="GSSAPI"), "KAFKA_SASL_MECHANISM"),
        (sasl(KAFKA_SSL_CAFILE="/nowhere/ca.pem"), "KAFKA_SSL_CAFILE: no file /nowhere/ca.pem"),
        (sasl(KAFKA_SSL_KEYFILE="/etc/hostname"), "KAFKA_SSL_KEYFILE is set without KAFKA_SSL_CERTFILE"),
        ({"KAFKA_SSL_CAFILE": "/etc/hostname"}, "KAFKA_SSL_CAFILE is set, but KAFKA_SECURITY_PROTOCOL=PLAINTEXT"),
    ],
)
def test_access_to_the_broker_is_told_whole_or_the_missing_variable_is_named(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], told: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        load_settings(MeshSettings)
    assert told in str(caught.value)
    assert "s3cr3t" not in str(caught.value)


def test_no_secret_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in sasl(KAFKA_SECURITY_PROTOCOL="SASL_PLAINTEXT").items():
        monkeypatch.setenv(name, value)
    settings = load_settings(MeshSettings)
    assert settings.kafka_password == "s3cr3t"
    assert "s3cr3t" not in f"{settings!r} {settings} {describe_settings(MeshSettings)}"
    assert settings.principal == "User:gateway"


def test_a_secret_that_is_wrong_is_named_and_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    class Guarded(MeshSettings):
        token: SecretStr = Field(SecretStr("long enough"), min_length=8)

    monkeypatch.setenv("CHATMESH_TOKEN", "s3cr3t")
    with pytest.raises(SettingsError, match="CHATMESH_TOKEN") as caught:
        load_settings(Guarded)
    assert "s3cr3t" not in str(caught.value)


def test_a_secret_may_come_from_a_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text("mongodb://user:s3cr3t@host/chatmesh\n")
    monkeypatch.setenv("MONGODB_URL_FILE", str(file))
    assert load_settings(HistorySettings).mongodb_url.get_secret_value() == "mongodb://user:s3cr3t@host/chatmesh"
    monkeypatch.setenv("KAFKA_SASL_PASSWORD_FILE", str(file))
    with pytest.raises(SettingsError, match="KAFKA_SASL_PASSWORD is set, but KAFKA_SECURITY_PROTOCOL=PLAINTEXT"):
        load_settings(MeshSettings)


@pytest.mark.parametrize(("content", "told"), [(None, "cannot read"), ("\n", "is empty"), (b"\xff", "is not UTF-8")])
def test_a_file_without_a_secret_names_its_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | bytes | None, told: str
) -> None:
    file = tmp_path / "secret"
    if content is not None:
        file.write_bytes(content if isinstance(content, bytes) else content.encode())
    monkeypatch.setenv("MONGODB_URL_FILE", str(file))
    with pytest.raises(SettingsError, match=f"MONGODB_URL_FILE: .*{told}"):
        load_settings(HistorySettings)
