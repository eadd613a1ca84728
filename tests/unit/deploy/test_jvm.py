"""What can be known of the JVM broker without starting it."""

from uuid import UUID

import pytest

from deploy.brokers import jvm


def test_a_cluster_id_is_never_taken_for_an_option(monkeypatch: pytest.MonkeyPatch) -> None:
    """One start in 64 failed: `kafka-storage format -t -…`."""
    drawn = iter([UUID(bytes=b"\xf8" + bytes(15)), UUID(bytes=b"\xf9" + bytes(15)), UUID(bytes=b"\x04" + bytes(15))])
    monkeypatch.setattr(jvm.uuid, "uuid4", lambda: next(drawn))
    assert jvm.new_cluster_id() == "BAAAAAAAAAAAAAAAAAAAAA"
