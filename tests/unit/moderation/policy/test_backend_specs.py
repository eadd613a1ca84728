"""What the policy file may say about backends and tenants, and how its faults are told."""

import pytest

from services.moderation.policy import Policy, PolicyError, parse_policy

CATEGORIES = """\
version: judged-1
categories:
  hate: {input: flag, output: cut, thresholds: {flag: 0.3, cut: 0.8}}
  secrets: {output: mask}
"""
KINDS = {
    "encoder": "{kind: encoder}",
    "text-classification": "{kind: text-classification, model: org/toxic, revision: 4f1d, labels: {toxic: hate}}",
    "guard": "{kind: guard, model: org/guard, template: '{{ messages }}', safe: '^safe', labels: {'S1\\b': hate}}",
    "upstream": "{kind: upstream, base_url: 'https://api.openai.com/v1/', api_key_env: OPENAI_API_KEY}",
    "personal-data": "{kind: personal-data, entities: {EMAIL_ADDRESS: secrets}}",
    "secrets": "{kind: secrets, category: secrets}",
}


def with_backend(spec: str) -> Policy:
    return parse_policy(f"{CATEGORIES}backends:\n  one: {spec}\n")


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_waits_two_seconds_and_fails_closed_where_nothing_is_said(kind: str) -> None:
    spec = with_backend(KINDS[kind]).backends["one"]
    assert (spec.kind, spec.timeout_s, spec.on_failure) == (kind, 2.0, "closed")


def test_how_long_to_wait_and_what_then_can_be_said() -> None:
    spec = with_backend("{kind: encoder, timeout_s: 1, on_failure: open}").backends["one"]
    assert (spec.timeout_s, spec.on_failure) == (1.0, "open")


def test_equal_specs_are_one_key_whatever_mappings_they_hold() -> None:
    for spec in KINDS.values():
        first, second = with_backend(spec).backends["one"], with_backend(spec).backends["one"]
        assert first is not second and {first: "shared"}[second] == "shared"
    assert len({with_backend(spec).backends["one"] for spec in KINDS.values()}) == len(KINDS)


def test_an_address_is_told_without_its_last_slash() -> None:
    assert getattr(with_backend(KINDS["upstream"]).backends["one"], "base_url", None) == "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("{kind: encodr}", r"policy:6: backends\.one: .*'encodr'.*'encoder', 'text-classification'"),
        ("{timeout_s: 1}", r"policy:6: backends\.one: the key kind is missing"),
        ("null", r"policy:6: backends\.one: must be a mapping"),
        ("{kind: encoder, model: x}", r"policy:6: backends\.one\.model: Extra inputs are not permitted"),
        ("{kind: encoder, timeout_s: 0}", r"backends\.one\.timeout_s: Input should be greater than 0"),
        ("{kind: encoder, timeout_s: 61}", r"backends\.one\.timeout_s: Input should be less than or equal to 60"),
        ("{kind: encoder, timeout_s: .nan}", r"backends\.one\.timeout_s: Input should be"),
        ("{kind: encoder, on_failure: off}", r"backends\.one\.on_failure: Input should be 'closed' or 'open'"),
        ("{kind: secrets, category: keys}", r"backends\.one\.category: the policy has no category 'keys'; it has hate"),
        (
            "{kind: personal-data, entities: {EMAIL_ADDRESS: mail}}",
            r"backends\.one\.entities\.EMAIL_ADDRESS: the policy has no category 'mail'",
        ),
        ("{kind: personal-data, entities: {}}", r"backends\.one\.entities: .* at least 1"),
        ("{kind: text-classification, model: m, labels: {yes: hate}}", r"labels.*: put it in quotes: .* as True"),
        ("{kind: text-classification, model: m, labels: {0: hate}}", r"labels\.0: put it in quotes"),
        ("{kind: guard, model: m, template: t, safe: '(', labels: {S1: hate}}", r"one\.safe: not a regular expression"),
        ("{kind: guard, model: m, template: t, safe: s, labels: {'S[': hate}}", r"one\.labels.*: not a regular"),
        ("{kind: guard, model: m, template: t, safe: [a], labels: {S1: hate}}", r"one\.safe: must be text, in quotes"),
        ("{kind: upstream, base_url: 'ftp://x/v1'}", r"backends\.one\.base_url: must be http"),
        ("{kind: upstream, base_url: 'https://me:word@x/v1'}", r"backends\.one\.base_url: .* without credentials"),
        ("{kind: upstream, base_url: 'https://x:v1/moderate'}", r"one\.base_url: .* port from 1 to 65535"),
        ("{kind: upstream, base_url: 'https://x:99999/v1'}", r"one\.base_url: .* port from 1 to 65535"),
        ("{kind: upstream, base_url: 'http://[::1/v1'}", r"one\.base_url: .* with a host"),
        ("{kind: upstream, base_url: 'http://:80/v1'}", r"one\.base_url: .* with a host"),
    ],
)
def test_faults_name_the_line_and_the_key(spec: str, expected: str) -> None:
    with pytest.raises(PolicyError, match=expected):
        with_backend(spec)


def test_a_key_in_place_of_its_variable_is_refused_and_not_repeated() -> None:
    with pytest.raises(PolicyError, match=r"api_key_env: must name an environment variable") as refused:
        with_backend("{kind: upstream, base_url: 'https://x/v1', api_key_env: sk-very-secret}")
    assert "secret" not in str(refused.value)


class TestCheckpoints:
    BACKEND = f"backends:\n  one: {KINDS['encoder']}\n"

    @pytest.mark.parametrize(
        ("streaming", "expected"),
        [
            ("{checkpoint: 97}", r"checkpoint is 97, but must not be above hold_back, 96"),
            ("{lookback: 175}", r"lookback is 175, but must be at least hold_back \+ checkpoint \+ stride = 176"),
        ],
    )
    def test_what_would_be_public_unjudged_is_refused(self, streaming: str, expected: str) -> None:
        with pytest.raises(PolicyError, match=rf"policy:\d: streaming\.?\w*: {expected}"):
            parse_policy(f"streaming: {streaming}\n{CATEGORIES}{self.BACKEND}")
        parse_policy(f"streaming: {streaming}\n{CATEGORIES}")  # nobody asks for checkpoints

    @pytest.mark.parametrize(
        "streaming",
        ["{checkpoint: 96}", "{lookback: 176}", "{stride: 64, hold_back: 0, checkpoint: 64, lookback: 128}"],
    )
    def test_up_to_there_it_may_be(self, streaming: str) -> None:
        parse_policy(f"streaming: {streaming}\n{CATEGORIES}{self.BACKEND}")


class TestTenants:
    @pytest.mark.parametrize(
        ("override", "expected"),
        [
            ("{hat: {output: cut}}", r"tenants\.acme\.categories\.hat: the policy has no category 'hat'"),
            ("{hate: {output: shout}}", r"policy:6: tenants\.acme\.categories\.hate\.output: Input should be 'cut'"),
            ("{hate: {patterns: ['x']}}", r"tenants\.acme\.categories\.hate\.patterns: Extra inputs"),
            (
                "{hate: {thresholds: {flag: 0.85}}}",
                r"tenants\.acme\.categories\.hate\.thresholds: flag is 0\.85, but must not be above cut \(0\.8\)",
            ),
        ],
    )
    def test_faults(self, override: str, expected: str) -> None:
        with pytest.raises(PolicyError, match=expected):
            parse_policy(f"{CATEGORIES}tenants:\n  acme: {{categories: {override}}}\n")

    def test_off_is_a_word_there_too(self) -> None:
        policy = parse_policy(f"{CATEGORIES}tenants:\n  acme: {{categories: {{hate: {{output: off}}}}}}\n")
        assert policy.of("acme").output_action("hate") == "off"


def test_all_faults_of_backends_and_tenants_are_told_at_once() -> None:
    with pytest.raises(PolicyError) as refused:
        parse_policy(
            f"{CATEGORIES}backends:\n  one: {{kind: secrets, category: keys}}\n"
            "tenants:\n  acme: {categories: {hat: {output: cut}}}\n"
            "  b: {categories: {hate: {thresholds: {cut: 0.1}}}}\n"
        )
    assert [line.split(": ")[1] for line in str(refused.value).splitlines()[1:]] == [
        "backends.one.category",
        "tenants.acme.categories.hat",
        "tenants.b.categories.hate.thresholds",
    ]


class TestName:
    @pytest.mark.parametrize(
        "added",
        [
            "backends: {e: {kind: encoder}}",
            "backends: {e: {kind: encoder, on_failure: open}}",
            "backends: {e: {kind: encoder, timeout_s: 3}}",
            "combine: any",
            "tenants: {acme: {categories: {hate: {output: flag}}}}",
        ],
    )
    def test_every_new_rule_is_another_policy(self, added: str) -> None:
        names = {parse_policy(CATEGORIES).name, parse_policy(f"{CATEGORIES}{added}\n").name}
        names.add(parse_policy(f"{CATEGORIES}backends: {{e: {{kind: upstream, base_url: 'http://h/v1'}}}}\n").name)
        assert len(names) == 3

    def test_what_is_said_by_default_changes_nothing(self) -> None:
        assert (
            parse_policy(f"{CATEGORIES}backends: {{}}\ncombine: maximum\ntenants: {{}}\n").name
            == parse_policy(CATEGORIES).name
        )

    def test_another_head_of_the_built_in_classifier_is_another_policy(self, monkeypatch: pytest.MonkeyPatch) -> None:
        with_encoder = f"{CATEGORIES}backends: {{e: {{kind: encoder}}}}\n"
        before = {parse_policy(text).name for text in (CATEGORIES, with_encoder)}
        monkeypatch.setattr("services.moderation.backends.encoder.head_revision", lambda: "trained-anew")
        after = {parse_policy(text).name for text in (CATEGORIES, with_encoder)}
        assert len(before & after) == 1 and parse_policy(CATEGORIES).name in after
