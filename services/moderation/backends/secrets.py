"""Keys, tokens and passwords, found by the plugins of detect-secrets: no files, no network, nothing is verified.

Scores: STRUCTURE for what has the form of a certain service's key, and for private keys and signed tokens; HINT for a
value in quotes that looks random or stands behind a word like "password", after detect-secrets' own filters against
look-alikes. The category's thresholds say which of them count:

    backends:
      secrets: {kind: secrets, category: secrets}
    categories:
      secrets: {output: mask, thresholds: {flag: 0.6, cut: 1}, mask: "[secret]"}

A mask hides all of what is at most `streaming.hold_back - streaming.checkpoint` code points long. Private keys and
signed tokens (JWT) are longer: they are known by their first line or part, and reported as far as the excerpt shows
them. So a mask holds them back while they grow, up to `streaming.lookback` code points; `cut` ends the answer there.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from services.moderation.backends.finding import Finder, FindingBackend, Found
from services.moderation.policy import SecretsSpec
from shared.errors import SettingsError

if TYPE_CHECKING:
    from detect_secrets.plugins.base import BasePlugin

STRUCTURE = 1.0
HINT = 0.7

_SERVICES = (
    "artifactory.ArtifactoryDetector",
    "aws.AWSKeyDetector",
    "azure_storage_key.AzureStorageKeyDetector",
    "basic_auth.BasicAuthDetector",
    "cloudant.CloudantDetector",
    "discord.DiscordBotTokenDetector",
    "github_token.GitHubTokenDetector",
    "gitlab_token.GitLabTokenDetector",
    "ibm_cloud_iam.IbmCloudIamDetector",
    "ibm_cos_hmac.IbmCosHmacDetector",
    "mailchimp.MailchimpDetector",
    "npm.NpmDetector",
    "openai.OpenAIDetector",
    "pypi_token.PypiTokenDetector",
    "sendgrid.SendGridDetector",
    "slack.SlackDetector",
    "softlayer.SoftlayerDetector",
    "square_oauth.SquareOAuthDetector",
    "stripe.StripeDetector",
    "telegram_token.TelegramBotTokenDetector",
    "twilio.TwilioKeyDetector",
)
"""All but public IP addresses (personal data), and private keys and JWTs, of which they know the first words alone."""

_PRIVATE_KEY = re.compile(
    r"(?:-----)?BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?(?:-----)?"
    r"(?:(?!-----END)[\s\S])*(?:-----END[A-Z0-9 ]*-{0,5})?"
    r"|PuTTY-User-Key-File-\d:(?:(?!Private-MAC:)[\s\S])*(?:Private-MAC:\s*[0-9a-fA-F]*)?"
)
_SIGNED_TOKEN = re.compile(r"\beyJ[A-Za-z0-9_-]{14,}(?:\.[A-Za-z0-9_=-]*){1,4}")
_REST_OF_KEY = re.compile(r"[\w+/=-]*")
"""Behind what a plugin matched: the form of a key has a length, what was written in its place may be longer."""


def secrets_backend(name: str, spec: SecretsSpec) -> FindingBackend:
    """A backend, not started."""
    return FindingBackend(name, frozenset({spec.category}), lambda: _load(name, spec.category))


def _load(name: str, category: str) -> Finder:
    try:
        values = _plugins()
    except ImportError as error:
        raise SettingsError(
            f"backend {name} (secrets) needs detect-secrets: pip install 'chatmesh[detectors]' ({error})"
        ) from error

    def find(text: str) -> Iterator[Found]:
        for pattern in (_PRIVATE_KEY, _SIGNED_TOKEN):
            for match in pattern.finditer(text):
                yield Found(category, *match.span(), STRUCTURE)
        for start, line in _lines(text):
            for score, values_in in values:
                for value in values_in(line):
                    yield from _everywhere(category, start, line, value, score)

    return Finder(find, f"detect-secrets-{version('detect-secrets')}")


def _lines(text: str) -> Iterator[tuple[int, str]]:
    start = 0
    for line in text.splitlines(keepends=True):
        yield start, line
        start += len(line)


def _everywhere(category: str, base: int, line: str, value: str, score: float) -> Iterator[Found]:
    """Every place of the value in the line: a plugin says what it found, not where."""
    at = line.find(value)
    while at >= 0:
        rest = _REST_OF_KEY.match(line, at + len(value))
        end = rest.end() if rest else at + len(value)
        yield Found(category, base + at, base + end, score)
        at = line.find(value, end)


Values = Callable[[str], Iterator[str]]
"""The secrets in a line, none of them empty."""


def _plugins() -> Sequence[tuple[float, Values]]:
    """Score → what finds secrets of it. Raises ImportError."""
    from importlib import import_module

    from detect_secrets.plugins.high_entropy_strings import Base64HighEntropyString, HexHighEntropyString
    from detect_secrets.plugins.keyword import KeywordDetector

    found: list[tuple[float, Values]] = []
    for path in _SERVICES:
        module, _, plugin = path.partition(".")
        found.append((STRUCTURE, _values(getattr(import_module(f"detect_secrets.plugins.{module}"), plugin)())))
    found += [(HINT, _random(Base64HighEntropyString())), (HINT, _random(HexHighEntropyString()))]
    return (*found, (HINT, _likely(KeywordDetector())))


def _values(plugin: "BasePlugin") -> Values:
    return lambda line: (value for value in plugin.analyze_string(line) if value)


def _random(plugin: Any) -> Values:
    """Of a plugin that says every value in quotes: those of at least its own limit of entropy per character."""
    likely = _likely(plugin)
    return lambda line: (v for v in likely(line) if plugin.calculate_shannon_entropy(v) > plugin.entropy_limit)


def _likely(plugin: "BasePlugin") -> Values:
    """Without what detect-secrets knows to look like a secret and to be none."""
    from detect_secrets.filters import heuristic

    unlikely: tuple[Callable[[str], bool], ...] = (
        heuristic.is_sequential_string,
        heuristic.is_potential_uuid,
        heuristic.is_templated_secret,
        heuristic.is_not_alphanumeric_string,
        heuristic.is_prefixed_with_dollar_sign,
    )

    def values(line: str) -> Iterator[str]:
        found = [value for value in _values(plugin)(line) if not any(looks_alike(value) for looks_alike in unlikely)]
        # A call or a look-up of the secret. Asked last: it takes milliseconds.
        return iter([] if not found or heuristic.is_indirect_reference(line) else found)

    return values
