"""What can be known of the JVM broker without starting it."""

from uuid import UUID

import pytest

from deploy.brokers import jvm
from tests.support.suites import REQUIRE_BROKERS, require_jvm


def test_a_cluster_id_is_never_taken_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start in 64 failed: `kafka-storage format -t -…`."""
    drawn = iter([UUID(bytes=b"\xf8" + bytes(15)), UUID(bytes=b"\xf9" + bytes(15)), UUID(bytes=b"\x04" + bytes(15))])
    monkeypatch.setattr(jvm.uuid, "uuid4", lambda: next(drawn))
    assert jvm.new_cluster_id() == "BAAAAAAAAAAAAAAAAAAAAA"


@pytest.mark.parametrize(("demanded", "outcome"), [("embedded, kafka", "Failed"), ("embedded", "Skipped")])
def test_a_suite_on_kafka_that_is_demanded_fails_without_java(
    demanded: str, outcome: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In silence nobody would notice that it no longer runs."""
    monkeypatch.setenv(REQUIRE_BROKERS, demanded)
    monkeypatch.setattr(jvm, "missing_tools", lambda: ["java"])
    with pytest.raises(BaseException, match="a cluster needs java") as caught:
        require_jvm("a cluster")
    assert caught.typename == outcome


def test_a_suite_on_kafka_runs_where_there_is_all_that_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jvm, "missing_tools", list)
    require_jvm("a cluster")
