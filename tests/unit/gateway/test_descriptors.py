"""The limit of open files: raised as far as allowed, and told by name where that is too little."""

import sys

import pytest

from services.gateway.web.descriptors import RESERVED, allow_streams
from shared.errors import SettingsError

resource = pytest.importorskip("resource")


class Limits:
    """Stands in for the process's own, which a test must not lower."""

    def __init__(self, soft: int, hard: int) -> None:
        self.now = (soft, hard)

    def get(self, which: int) -> tuple[int, int]:
        assert which == resource.RLIMIT_NOFILE
        return self.now

    def set(self, which: int, limits: tuple[int, int]) -> None:
        assert which == resource.RLIMIT_NOFILE
        self.now = limits


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> Limits:
    limits = Limits(1024, 4096)
    monkeypatch.setattr(resource, "getrlimit", limits.get)
    monkeypatch.setattr(resource, "setrlimit", limits.set)
    return limits


def test_the_soft_limit_is_raised_to_the_hard_one(limits: Limits) -> None:
    allow_streams(2000)
    assert limits.now == (4096, 4096)


def test_more_streams_than_files_are_refused_by_name_and_number(limits: Limits) -> None:
    allow_streams(4096 - RESERVED)
    with pytest.raises(SettingsError, match=r"CHATMESH_MAX_IN_FLIGHT is 3,841, .* 4,096 files of 4,097 needed"):
        allow_streams(4096 - RESERVED + 1)


def test_without_a_limit_there_is_none(limits: Limits) -> None:
    limits.now = (1024, resource.RLIM_INFINITY)
    allow_streams(1 << 40)


def test_a_system_without_limits_needs_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "resource", None)
    allow_streams(1 << 40)
