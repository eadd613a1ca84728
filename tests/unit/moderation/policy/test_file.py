"""The policy file: what it may say, how its faults are told, how it is named."""

import re
from pathlib import Path

import pytest

from services.moderation.policy import CompiledPattern, PolicyError, load_policy, parse_policy
from services.moderation.policy.regexes import PatternError, compile_pattern

SMALL = """\
version: small-1
streaming: {stride: 4, lookback: 64, hold_back: 16}
categories:
  violence:
    input: refuse
    output: cut
    patterns:
      - 'bo+m'
      - regex: 'Fire'
        flags: [multiline]
  leaks:
    output: mask
    mask: '###'
    patterns: ['\\d{4}']
"""


def compiled(source: str, flags: re.RegexFlag = re.IGNORECASE, lookback: int = 512) -> CompiledPattern:
    return compile_pattern(source, flags, lookback)


def test_a_policy_says_what_to_do_and_defaults_to_nothing() -> None:
    policy = parse_policy(SMALL)
    assert policy.version == "small-1"
    assert (policy.streaming.stride, policy.streaming.lookback, policy.streaming.hold_back) == (4, 64, 16)
    assert (policy.input_action("violence"), policy.output_action("violence")) == ("refuse", "cut")
    assert (policy.input_action("leaks"), policy.output_action("leaks")) == ("off", "mask")
    assert (policy.input_action("unheard/of"), policy.output_action("unheard/of")) == ("off", "off")
    assert policy.categories["leaks"].mask == "###"
    first, second = policy.categories["violence"].patterns
    assert first.regex.search("BOOM") and second.regex.search("Fire") and not second.regex.search("fire")


def test_a_bare_off_is_the_word_not_false() -> None:
    policy = parse_policy("version: v\ncategories:\n  a: {input: off, output: off}\n")
    assert policy.input_action("a") == policy.output_action("a") == "off"


class TestName:
    def test_is_the_version_and_a_digest_of_what_the_file_says(self) -> None:
        assert re.fullmatch(r"small-1@[0-9a-f]{8}", parse_policy(SMALL).name)

    def test_layout_comments_and_spelled_out_defaults_change_nothing(self) -> None:
        laid_out = SMALL.replace("    output: mask", '    # what leaks\n    input: "off"\n    output:   mask')
        assert laid_out != SMALL and parse_policy(laid_out).name == parse_policy(SMALL).name

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ("stride: 4", "stride: 8"),
            ("bo+m", "bo+ms"),
            ("output: cut", "output: flag"),
            ("mask: '###'", "mask: '##'"),
            ("[multiline]", "[dotall]"),
            ("leaks:", "leak:"),
        ],
    )
    def test_any_other_rule_is_another_policy(self, old: str, new: str) -> None:
        assert parse_policy(SMALL.replace(old, new)).name != parse_policy(SMALL).name

    def test_the_order_of_categories_is_a_rule(self) -> None:
        head, rest = SMALL.split("  violence:")
        violence, leaks = rest.split("  leaks:")
        swapped = f"{head}  leaks:{leaks}  violence:{violence}"
        assert parse_policy(swapped).name != parse_policy(SMALL).name


class TestFaults:
    @pytest.mark.parametrize(
        ("old", "new", "expected"),
        [
            ("input: refuse", "input: reject", r"policy:5: categories\.violence\.input: Input should be 'refuse'"),
            ("output: mask", "outptu: mask", r"policy:12: categories\.leaks\.outptu: Extra inputs are not permitted"),
            ("stride: 4", "stride: 0", r"policy:2: streaming\.stride: Input should be greater than or equal to 1"),
            (
                "lookback: 64",
                "lookback: 19",
                r"policy:2: streaming: .*lookback is 19, but must be .* hold_back \+ stride = 20",
            ),
            ("version: small-1", "version: 1", r"policy:1: version: Input should be a valid string"),
            ("'bo+m'", "'bo*('", r"policy:8: categories\.violence\.patterns\.0: the pattern 'bo\*\(' not a regular"),
            ("'bo+m'", "'(bo)*'", r"policy:8: .* matches the empty string"),
            ("regex: 'Fire'", "regex: 'Fire(?=x)'", r"policy:9: categories\.violence\.patterns\.1: .*look-around"),
            ("[multiline]", "[verbose]", r"policy:10: categories\.violence\.patterns\.1\.flags\.0: Input should be"),
            ("[multiline]", "multiline", r"policy:10: categories\.violence\.patterns\.1\.flags: must be a list"),
            ("'bo+m'", "yes", r"policy:8: categories\.violence\.patterns\.0: must be a regular expression in quotes"),
        ],
    )
    def test_name_the_line_and_the_key(self, old: str, new: str, expected: str) -> None:
        assert old in SMALL
        with pytest.raises(PolicyError, match=expected):
            parse_policy(SMALL.replace(old, new))

    def test_are_all_told_at_once(self) -> None:
        broken = SMALL.replace("'bo+m'", "'(a'").replace("'\\d{4}'", "'b*'")
        with pytest.raises(PolicyError) as caught:
            parse_policy(broken)
        assert "policy:8: " in str(caught.value) and "policy:14: " in str(caught.value)

    def test_a_category_of_wrong_words_hides_no_wrong_pattern(self) -> None:
        broken = "version: v\ncategories:\n  hate:\n    output: ct\n    patterns:\n      - 5\n      - '(a'\n"
        with pytest.raises(PolicyError) as caught:
            parse_policy(broken)
        assert [line.split(":")[1] for line in str(caught.value).splitlines()[1:]] == ["4", "6", "7"]

    def test_a_key_that_stands_twice(self) -> None:
        with pytest.raises(PolicyError, match=r"categories\.leaks: the key stands here a second time, on line 15"):
            parse_policy(SMALL + "  leaks: {output: cut}\n")

    @pytest.mark.parametrize("text", ["", "- a\n", "just words"])
    def test_not_a_mapping(self, text: str) -> None:
        with pytest.raises(PolicyError, match="must be a mapping with the keys version, streaming and categories"):
            parse_policy(text)

    def test_not_yaml(self) -> None:
        with pytest.raises(PolicyError, match="not YAML"):
            parse_policy("version: [")

    def test_no_file(self, tmp_path: Path) -> None:
        with pytest.raises(PolicyError, match=r"cannot read the moderation policy .*gone\.yaml"):
            load_policy(tmp_path / "gone.yaml")


class TestWarnings:
    def test_none_while_every_match_is_held_back_whole(self) -> None:
        assert parse_policy(SMALL.replace("bo+m", "bo{1,14}m")).warnings == ()

    def test_a_match_longer_than_what_is_held_back(self) -> None:
        (warning,) = parse_policy(SMALL.replace("bo+m", "bo{1,15}m")).warnings
        assert "can be 17 code points long, but only 16 are held back" in warning

    def test_a_match_of_any_length(self) -> None:
        (warning,) = parse_policy(SMALL).warnings
        assert "violence" in warning and "'bo+m'" in warning and "of any length" in warning

    @pytest.mark.parametrize(
        ("backend", "found"),
        [
            ("{kind: secrets, category: leaks}", False),
            ("{kind: upstream, base_url: 'http://h/v1'}", True),
            ("{kind: encoder}", True),
            ("{kind: personal-data, entities: {PHONE_NUMBER: hate}}", True),
        ],
    )
    def test_a_category_that_nothing_looks_for(self, backend: str, found: bool) -> None:
        text = "version: v\ncategories: {hate: {output: flag}, leaks: {patterns: [x], output: mask}, sexual: {}}\n"
        (unfound,) = parse_policy(text).warnings
        assert "nothing looks for hate: it has no patterns, and no backend" in unfound
        assert (parse_policy(f"{text}backends: {{b: {backend}}}\n").warnings == ()) is found

    def test_what_the_built_in_classifier_was_not_taught_is_looked_for_by_nothing(self) -> None:
        text = "version: v\ncategories: {any: {output: flag}, illicit: {output: cut}}\nbackends: {b: {kind: encoder}}\n"
        (unfound,) = parse_policy(text).warnings
        assert "nothing looks for illicit: " in unfound

    def test_a_category_that_is_only_flagged_promises_nothing(self) -> None:
        assert parse_policy(SMALL.replace("output: cut", "output: flag")).warnings == ()


class TestPatterns:
    @pytest.mark.parametrize(
        "source",
        [
            *(r"(a+)+b", r"(?:a?a?){20}b", r"(?:\d[ -]?){12,18}", r".*.*.*x", r"(?:ab|a.){16}", "a{1,600}b{1,600}"),
            # Letters that are one where case is ignored.
            *("(?:sa|\u017fa){1,40}x", "(?:ia|\u0130a){1,40}x", "(?:ka|\u212aa){1,40}x", "(?:βa|ϐa){1,40}x"),
        ],
    )
    def test_what_could_backtrack_for_long_is_refused(self, source: str) -> None:
        with pytest.raises(PatternError, match="possessive"):
            compiled(source)

    @pytest.mark.parametrize(
        "source",
        [r"(?:\d[ -]?+){12,18}\d", r"make .{0,40}(?:bomb|explosive)", r".{0,40}x.{0,40}", r"(?>a+)+b", r"sk-\w{20,}"],
    )
    def test_what_cannot_is_allowed(self, source: str) -> None:
        assert compiled(source).min_width > 0

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ("a(?=b)", "look-around"),
            ("(?<=b)a", "look-around"),
            ("x(?:a(?!b))", "negative look-around"),
            (r"(a)\1", "back-reference"),
            ("(a)?b(?(1)c|d)", "conditional"),
            ("ab$", r"uses `\$`"),
            ("a*", "empty string"),
            (r"\b", "empty string"),
            ("a{600}", "needs 600 code points, more than a window holds"),
        ],
    )
    def test_what_no_window_could_judge_is_refused(self, source: str, reason: str) -> None:
        with pytest.raises(PatternError, match=reason):
            compiled(source)

    def test_a_dollar_per_line_is_allowed(self) -> None:
        assert compiled("ab$", re.MULTILINE).max_width == 2

    @pytest.mark.parametrize(
        ("source", "widths"),
        [
            ("bombs?", (4, 5)),
            (r"\bab{2,7}\b", (3, 8)),
            ("a+", (1, None)),
            ("(?:a|bc{3,})d", (2, None)),
            ("a?b", (1, 2)),
        ],
    )
    def test_widths(self, source: str, widths: tuple[int, int | None]) -> None:
        pattern = compiled(source)
        assert (pattern.min_width, pattern.max_width) == widths

    @pytest.mark.parametrize(
        ("source", "required"),
        [
            ("How to .{0,9}Bomb", [{"how to "}, {"bomb"}]),
            ("(?:kill|murder) (?:you|them)", [{"kill", "murder"}, {"you", "them"}, {" "}]),
            ("x?(?:abc|de)y?", [{"abc", "de"}]),
            ("(?:abc.x|de)", [{"abc", "de"}]),
            ("(?:abc){2}(?:de)*", [{"abc"}]),
            ("(?:abc)?d", [{"d"}]),
            (r"\d{4}", []),
            ("(?:abc|\\d)", []),
            ("é", []),
            ("aéb", [{"a"}, {"b"}]),
        ],
    )
    def test_literals_that_every_match_contains(self, source: str, required: list[set[str]]) -> None:
        pattern = compiled(source)
        assert list(pattern.required) == required
        assert pattern.may_match("") == (not required)
