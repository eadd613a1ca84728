"""Whatever stands in a policy file, it is a policy or its faults are told: a reload must never end a service."""

import warnings

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.moderation.policy import Policy, PolicyError, parse_policy
from tests.unit.moderation.policy.test_check import WHOLE

LINES = WHOLE.splitlines()
ODD = (
    "&a [*a]", "{? [x] : y}", "!!set {a, b}", "!!int abc", "2026-99-99", "!!python/object:os.system x", "~", "yes", "|",
    "1e999", ".nan", "-1", "[]", "{}", "'(a+)+b'", "'[[a]'", '"\\ud800"', "<<: *x", "*x", "? ", "- - -", "\t",
    "%YAML 9", ">-", "[" * 400, "{a: " * 200,
)  # fmt: skip
WHERE = st.integers(0, len(LINES) - 1)
EDITS = st.one_of(
    st.tuples(st.just("drop"), WHERE, st.just("")),
    st.tuples(st.just("double"), WHERE, st.just("")),
    st.tuples(st.sampled_from(["value", "line", "indent"]), WHERE, st.sampled_from(ODD)),
    st.tuples(st.just("cut"), WHERE, st.text(max_size=3)),
)


def edited(edits: list[tuple[str, int, str]]) -> str:
    lines = list(LINES)
    for how, number, odd in edits:
        at = number % len(lines)
        match how:
            case "drop" if len(lines) > 1:
                del lines[at]
            case "double":
                lines.insert(at, lines[at])
            case "value":
                lines[at] = f"{lines[at].partition(': ')[0]}: {odd}"
            case "line":
                lines.insert(at, odd)
            case "indent":
                lines[at] = f"  {lines[at]} {odd}"
            case "cut":
                lines[at] = lines[at][: len(lines[at]) // 2] + odd
    return "\n".join(lines) + "\n"


def outcome(text: str) -> Policy | None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of `re`, on patterns that may mean something else one day
        try:
            return parse_policy(text)
        except PolicyError as error:
            assert str(error)
            return None


@settings(max_examples=300)
@given(st.lists(EDITS, min_size=1, max_size=4))
@example([("value", 0, "!!int abc")])
@example([("value", 0, "2026-99-99")])
@example([("line", 0, "{? [x] : y}")])
@example([("value", 1, "&a [*a]")])
def test_a_broken_policy_is_only_ever_a_policy_error(edits: list[tuple[str, int, str]]) -> None:
    found = outcome(edited(edits))
    if found is not None:
        assert parse_policy(found.source).name == found.name


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("whole", ["{}", "version: {}", "categories: {}", "version: v\ncategories: {{a: {}}}\n"])
def test_odd_things_in_odd_places(whole: str, odd: str) -> None:
    assert outcome(whole.format(odd)) is None or odd in ("yes", "{}", "[]", "-1", "~")


def test_aliases_that_multiply_are_read_once() -> None:
    """Ten lists of ten lists of …: written out, a hundred million values."""
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    with pytest.raises(PolicyError, match="Extra inputs are not permitted"):
        parse_policy(f"version: v\ncategories: {{}}\na0: &a0 x\n{laughs}")


def test_faults_of_every_kind_are_told_together_in_the_order_of_the_file() -> None:
    text = (
        WHOLE.replace("whole-1", "'two words'")
        .replace("'a b', 'c'", "'(', 'c'")
        .replace("category: secrets", "category: keys")
    )
    text = text.replace("combine: any", "combine: all").replace("cut: 0.7", "cut: 0.1") + "combine: any\n"
    with pytest.raises(PolicyError) as refused:
        parse_policy(text)
    told = [line.split(": ")[:2] for line in str(refused.value).splitlines()[1:]]
    assert told == [
        ["policy:1", "version"],
        ["policy:3", "categories.hate.patterns.0"],
        ["policy:8", "backends.keys.category"],
        ["policy:9", "combine"],
        ["policy:11", "tenants.acme.categories.hate.thresholds"],
    ]


def test_of_a_category_that_is_faulty_itself_nothing_else_is_said() -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy(WHOLE.replace("cut: 0.8", "cut: high"))
    (fault,) = str(refused.value).splitlines()[1:]
    assert "categories.hate.thresholds.cut" in fault
