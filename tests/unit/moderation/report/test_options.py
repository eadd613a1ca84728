"""What can be asked of the report."""

import pytest

from services.moderation.report.options import parse
from tests.unit.moderation.report.samples import CUT, CUT_STRETCH, REFUSED, verdict


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("30m", 1800), ("1h", 3600), ("7d", 604_800)])
def test_since(text: str, seconds: float) -> None:
    assert parse(["--since", text]).since_s == seconds


def test_a_day_where_nothing_is_said() -> None:
    options = parse([])
    assert (options.since_s, options.tenant, options.lists, options.as_json, options.follow) == (
        86400,
        None,
        False,
        False,
        False,
    )


@pytest.mark.parametrize("wrong", [["--since", "1"], ["--since", "h"], ["--since", "-1h"], ["--action", "shout"]])
def test_what_nobody_can_ask(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        parse(wrong)
    assert ended.value.code == 2 and "usage:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ([], [CUT, REFUSED]),
        (["--category", "hate"], [CUT, REFUSED]),
        (["--action", "cut"], [CUT, CUT_STRETCH]),
        (["--category", "hate", "--action", "refuse"], [REFUSED]),
        (["--category", "sexual"], []),
    ],
)
def test_what_is_listed(arguments: list[str], shown: list[object]) -> None:
    options = parse(arguments)
    assert [each for each in (verdict(0), CUT, CUT_STRETCH, REFUSED) if options.shows(each)] == shown
