"""The file of limits, and what a limited tenant is told."""

from pathlib import Path

import pytest

from services.gateway.ingress import served_tier
from services.gateway.ledger.limits import Limits, load_rate_limits
from services.gateway.ledger.quota import duration, limited_error, quota_headers
from services.gateway.ledger.window import Shortage, Standing
from shared.errors import SettingsError

FILE = """
tiers:
  default: {requests_per_minute: 60, tokens_per_minute: 1000}
  priority: {tokens_per_minute: 9000}
tenants:
  acme: {requests_per_minute: 5}
  free: {requests_per_minute: null, tokens_per_minute: null}
"""


def test_a_tenants_own_limits_go_before_its_tiers(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(FILE)
    limits = load_rate_limits(path)
    assert limits.of("somebody", "default") == Limits(60, 1000)
    assert limits.of("somebody", "priority") == Limits(None, 9000)
    assert limits.of("acme", "default") == Limits(5, 1000)
    assert limits.of("acme", "priority") == Limits(5, 9000)
    assert not limits.of("free", "default")


def test_without_a_file_or_with_an_empty_one_there_are_no_limits(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("")
    for path in (None, tmp_path / "empty.yaml"):
        assert not load_rate_limits(path).of("acme", "default")


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("tiers: {gold: {requests_per_minute: 1}}", "tiers: Value error, there is no tier 'gold'"),
        ("tiers: {default: {requests_per_minute: 0}}", "tiers.default.requests_per_minute: .*greater than or equal"),
        ("tiers: {default: {requests_per_minute: 1.5}}", "tiers.default.requests_per_minute: .*integer"),
        ("tenants: {acme: {rpm: 1}}", "tenants.acme.rpm: Extra inputs"),
        ("tenants: [acme]", "tenants: "),
        ("[1]", "the file: "),
        ("{", "no valid YAML"),
    ],
)
def test_a_wrong_file_ends_the_start_and_names_the_place(tmp_path: Path, content: str, what: str) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(content)
    with pytest.raises(SettingsError, match=f"CHATMESH_RATE_LIMITS: .*{what}"):
        load_rate_limits(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="CHATMESH_RATE_LIMITS: cannot read"):
        load_rate_limits(tmp_path / "nothing.yaml")


@pytest.mark.parametrize(
    ("ms", "text"),
    [
        (0, "0s"),
        (-5, "0s"),
        (1, "1ms"),
        (999, "999ms"),
        (1000, "1s"),
        (1500, "1.5s"),
        (59_999, "59.999s"),
        (60_000, "1m0s"),
        (360_000, "6m0s"),
        (3_600_000 + 90_250, "1h1m30.25s"),
    ],
)
def test_durations_are_written_as_openai_writes_them(ms: int, text: str) -> None:
    assert duration(ms) == text


def test_headers_tell_what_is_limited_and_nothing_else() -> None:
    standing = Standing(Limits(5, None), 7, 100, 1500, 0)
    assert quota_headers(standing) == {
        "x-ratelimit-limit-requests": "5",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "1.5s",
    }
    assert quota_headers(None) == {}


def test_a_limited_request_is_told_when_to_come_again() -> None:
    error = limited_error(Shortage("requests", 1200, 1200, 1, 1234), None, "acme")
    assert (error.status, error.code, error.error_type) == (429, "rate_limit_exceeded", "requests")
    assert error.headers == {"retry-after": "2", "retry-after-ms": "1234"}
    assert error.message == (
        "Rate limit reached for organization acme on requests per min (RPM): Limit 1,200, Used 1,200, Requested 1. "
        "Please try again in 1.234s."
    )


def test_a_request_that_never_fits_is_told_both_numbers_and_what_to_do() -> None:
    error = limited_error(Shortage("tokens", 1000, 0, 8192, None), None, "acme")
    assert (error.status, error.code, error.error_type) == (429, "rate_limit_exceeded", "tokens")
    assert error.headers == {"x-should-retry": "false"}
    assert "Limit 1,000, Requested 8,192" in error.message
    assert "max_output_tokens" in error.message


@pytest.mark.parametrize(
    ("key", "asked", "served", "priority"),
    [
        ("default", "auto", "default", 0),
        ("default", "default", "default", 0),
        ("default", "priority", "default", 0),
        ("default", "fast", "default", 0),
        ("default", "flex", "flex", -1),
        ("priority", "auto", "priority", 1),
        ("priority", "priority", "priority", 1),
        ("priority", "scale", "priority", 1),
        ("priority", "default", "default", 0),
        ("priority", "flex", "flex", -1),
    ],
)
def test_a_tier_is_served_as_the_key_may_have_it(key: str, asked: str, served: str, priority: int) -> None:
    assert served_tier(key, asked) == (served, priority)
