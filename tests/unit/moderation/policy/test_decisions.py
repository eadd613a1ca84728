"""From a score to what is done: for everybody, for a tenant, for a request that asks for more."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.moderation.policy import Policy, parse_policy
from shared.records import MODERATION_CATEGORIES, ModerationMode, ModerationWish

POLICY = parse_policy(
    """\
version: scores-1
categories:
  hate: {input: refuse, output: cut, thresholds: {flag: 0.3, cut: 0.8, refuse: 0.6}}
  sexual: {input: flag, output: flag, thresholds: {flag: 0.4, cut: 0.5}}
  violence: {thresholds: {flag: 0.2, cut: 0.7}}
  leaks: {output: mask, thresholds: {flag: 0.5, cut: 0.9}}
tenants:
  acme: {categories: {hate: {output: flag}, violence: {input: refuse, thresholds: {cut: 0.9}}}}
"""
)


def wish(of_input: ModerationMode = "score", of_output: ModerationMode = "score") -> ModerationWish:
    return ModerationWish(model="omni-moderation-latest", input=of_input, output=of_output)


@pytest.mark.parametrize(
    ("category", "score", "of_input", "of_output"),
    [
        ("hate", 0.29, "off", "off"),
        ("hate", 0.3, "flag", "flag"),
        ("hate", 0.59, "flag", "flag"),
        ("hate", 0.6, "refuse", "flag"),
        ("hate", 0.8, "refuse", "cut"),
        ("sexual", 0.39, "off", "off"),
        ("sexual", 1.0, "flag", "flag"),
        ("violence", 1.0, "off", "off"),
        ("leaks", 0.5, "off", "flag"),
        ("leaks", 0.9, "off", "mask"),
        ("unheard/of", 1.0, "off", "off"),
    ],
)
def test_the_own_action_from_its_threshold_on_and_a_flag_below(
    category: str, score: float, of_input: str, of_output: str
) -> None:
    assert (POLICY.input_action(category, score), POLICY.output_action(category, score)) == (of_input, of_output)


def test_what_clients_are_told_goes_by_the_score_alone() -> None:
    assert POLICY.flagged("violence", 0.2) and not POLICY.flagged("violence", 0.19)
    assert not POLICY.flagged("unheard/of", 1.0)


class TestTenant:
    def test_has_its_own_rules_and_otherwise_the_policys(self) -> None:
        acme = POLICY.of("acme")
        assert (acme.output_action("hate"), acme.input_action("hate", 0.6)) == ("flag", "refuse")
        assert (acme.input_action("violence", 0.89), acme.input_action("violence", 0.9)) == ("flag", "refuse")
        assert acme.categories["sexual"] == POLICY.categories["sexual"]
        assert list(acme.categories) == list(POLICY.categories)

    def test_of_whom_nothing_is_said_has_the_policy(self) -> None:
        assert POLICY.of("nobody") is POLICY

    def test_a_tenants_policy_is_the_same_object_and_of_the_same_name(self) -> None:
        assert POLICY.of("acme") is POLICY.of("acme") is POLICY.of("acme").of("acme")
        assert POLICY.of("acme").name == POLICY.name
        assert POLICY.of("acme").source == POLICY.source


class TestWish:
    def test_to_be_told_changes_nothing(self) -> None:
        assert POLICY.asked(None) is POLICY and POLICY.asked(wish()) is POLICY

    def test_to_block_refuses_what_would_be_flagged(self) -> None:
        asked = POLICY.asked(wish(of_input="block"))
        assert [asked.input_action(name, 0.45) for name in ("hate", "sexual", "violence")] == ["refuse"] * 3
        assert asked.input_action("sexual", 0.39) == "off"
        assert [asked.output_action("hate", score) for score in (0.79, 0.8)] == ["flag", "cut"]

    def test_to_block_cuts_what_would_be_flagged(self) -> None:
        asked = POLICY.asked(wish(of_output="block"))
        assert [asked.output_action(name, 0.45) for name in ("hate", "sexual", "violence")] == ["cut"] * 3
        assert [asked.input_action("hate", score) for score in (0.59, 0.6)] == ["flag", "refuse"]

    def test_categories_of_the_operators_own_are_as_they_are(self) -> None:
        asked = POLICY.asked(wish("block", "block"))
        assert asked.categories["leaks"] == POLICY.categories["leaks"] and "leaks" not in MODERATION_CATEGORIES

    def test_the_same_wish_is_the_same_object(self) -> None:
        for mode in (wish("block"), wish("score", "block"), wish("block", "block")):
            assert POLICY.asked(mode) is POLICY.asked(mode)
            assert POLICY.of("acme").asked(mode) is POLICY.of("acme").asked(mode)
        assert POLICY.asked(wish("block")).name == POLICY.name


SEVERITY = {"off": 0, "flag": 1, "mask": 2, "refuse": 3, "cut": 3}


@given(
    category=st.sampled_from(list(POLICY.categories)),
    tenant=st.sampled_from(["acme", "nobody"]),
    scores=st.tuples(st.floats(0, 1), st.floats(0, 1)).map(sorted),
    modes=st.tuples(st.sampled_from(["score", "block"]), st.sampled_from(["score", "block"])),
)
def test_a_higher_score_and_a_wish_never_make_it_laxer(
    category: str, tenant: str, scores: list[float], modes: tuple[ModerationMode, ModerationMode]
) -> None:
    plain = POLICY.of(tenant)
    asked = plain.asked(wish(*modes))

    def severities(policy: Policy, score: float) -> tuple[int, int]:
        return SEVERITY[policy.input_action(category, score)], SEVERITY[policy.output_action(category, score)]

    low, high = scores
    assert all(a <= b for a, b in zip(severities(asked, low), severities(asked, high), strict=True))
    assert all(a <= b for a, b in zip(severities(plain, low), severities(asked, low), strict=True))
