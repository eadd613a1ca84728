"""Personal data: what is found, how surely, and that nothing is downloaded for it."""

import logging
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.moderation.backends.building import build_backend
from services.moderation.backends.port import Backend
from services.moderation.policy import PersonalDataSpec
from shared.errors import SettingsError
from tests.unit.moderation.backends.contract import BackendContract, excerpt

ENTITIES = {
    "EMAIL_ADDRESS": "mail",
    "PHONE_NUMBER": "phone",
    "CREDIT_CARD": "money",
    "IBAN_CODE": "money",
    "IP_ADDRESS": "address",
    "US_SSN": "number",
}
FOUND = [
    ("Write to jane.doe+news@mail.example.co.uk today", "jane.doe+news@mail.example.co.uk", "mail", 1.0),
    ("Schreib an jörg@bücher.de, bitte", "jörg@bücher.de", "mail", 1.0),
    ("card 4111 1111 1111 1111.", "4111 1111 1111 1111", "money", 1.0),
    ("card 4111-1111-1111-1111.", "4111-1111-1111-1111", "money", 1.0),
    ("an 378282246310005 amex", "378282246310005", "money", 1.0),
    ("to DE89 3704 0044 0532 0130 00, soon", "DE89 3704 0044 0532 0130 00", "money", 1.0),
    ("to GB82WEST12345698765432", "GB82WEST12345698765432", "money", 1.0),
    ("ping 203.0.113.77 now", "203.0.113.77", "address", 0.6),
    ("ping 2001:db8::8a2e:370:7334 now", "2001:db8::8a2e:370:7334", "address", 0.6),
    ("SSN 536-90-4399", "536-90-4399", "number", 0.5),
    ("call +1 650-253-0000", "+1 650-253-0000", "phone", 0.4),
    ("call (650) 253-0000", "(650) 253-0000", "phone", 0.4),
    ("call +49 30 901820", "+49 30 901820", "phone", 0.4),
    ("call 020 7946 0018", "020 7946 0018", "phone", 0.4),
]
NOT_FOUND = [
    "Write to jane at example dot com",
    "the @handle of somebody, user@localhost, a@b",
    "order 4111 1111 1111 1112",  # no card by its check digit
    "DE00 3704 0044 0532 0130 00",  # no IBAN by its check digits
    "version 1.2.3, chapter 10.4, in 2024",
    "999.999.999.999",
    "000-12-3456 and 123-45-6789",  # never given out; the one of every example
    "The year 1984, 100,000 people, 3.14159265 and 12:30:45",
    "",
]


def spec(**changes: object) -> PersonalDataSpec:
    return PersonalDataSpec.model_validate({"kind": "personal-data", "entities": ENTITIES, **changes})


async def started(given: PersonalDataSpec) -> Backend:
    backend = build_backend("personal-data", given)
    await backend.start()
    return backend


@pytest_asyncio.fixture(scope="module")
async def subject() -> AsyncIterator[Backend]:
    backend = await started(spec())
    yield backend
    await backend.stop()


class TestContract(BackendContract):
    """With all of the entities that people mean first."""


@pytest.mark.parametrize(("text", "what", "category", "score"), FOUND, ids=[what for _, what, _, _ in FOUND])
async def test_it_finds(subject: Backend, text: str, what: str, category: str, score: float) -> None:
    (judgement,) = await subject.judge([excerpt(text)])
    assert [(text[span.start : span.end], span.category, span.score) for span in judgement.spans] == [
        (what, category, score)
    ]


@pytest.mark.parametrize("text", NOT_FOUND)
async def test_it_leaves_alone(subject: Backend, text: str) -> None:
    (judgement,) = await subject.judge([excerpt(text)])
    assert judgement.spans == ()


async def test_places_count_code_points_of_the_raw_text(subject: Backend) -> None:
    text = "👩‍👩‍👧‍👦 İ e\u0301: jane@example.com 🏠"
    (judgement,) = await subject.judge([excerpt(text)])
    assert [text[span.start : span.end] for span in judgement.spans] == ["jane@example.com"]


async def test_the_language_says_whose_national_numbers_are_meant() -> None:
    text = "Tel. 030 901820"
    for language, found in (("de", ["030 901820"]), ("en", [])):
        backend = await started(spec(language=language, entities={"PHONE_NUMBER": "phone"}))
        (judgement,) = await backend.judge([excerpt(text)])
        assert [text[span.start : span.end] for span in judgement.spans] == found
        await backend.stop()


async def test_only_what_the_policy_names_is_looked_for() -> None:
    backend = await started(spec(entities={"IP_ADDRESS": "address"}))
    (judgement,) = await backend.judge([excerpt("jane@example.com at 203.0.113.77")])
    assert set(judgement.scores) == {"address"}
    await backend.stop()


async def test_an_entity_that_there_is_no_pattern_for_is_told_with_those_that_there_are() -> None:
    """PERSON takes a model of language."""
    with pytest.raises(SettingsError, match=r"no pattern for NICKNAME, PERSON; it has .*CREDIT_CARD.*EMAIL_ADDRESS"):
        await started(spec(entities={"PERSON": "name", "NICKNAME": "name", "EMAIL_ADDRESS": "mail"}))


async def test_nothing_is_downloaded(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object) -> None:
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    backend = await started(spec())
    (judgement,) = await backend.judge([excerpt("jane@example.com")])
    assert judgement.flagged == {"mail"}
    await backend.stop()


async def test_no_text_reaches_the_log(subject: Backend, caplog: pytest.LogCaptureFixture) -> None:
    """presidio logs an IBAN that it cannot make sense of."""
    with caplog.at_level(logging.DEBUG):
        await subject.judge([excerpt("GB82 WEST 1234 5698 7654 3Ö, GB82WEST1234569876543², a@b.cd")])
    assert "WEST" not in caplog.text


async def test_a_text_made_to_take_long_does_not(subject: Backend) -> None:
    for text in ("a" * 16_000, "a." * 8_000, "9" * 16_000, "a@" * 8_000, "1-" * 8_000, "1 2 " * 4_000, "::" * 8_000):
        started_s = time.monotonic()
        await subject.judge([excerpt(text)])
        assert time.monotonic() - started_s < 3, f"{text[:4]!r}"


def run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


START = """
import asyncio, sys
{before}
from services.moderation.backends.building import build_backend
from services.moderation.policy import PersonalDataSpec, SecretsSpec
spec = PersonalDataSpec(kind="personal-data", entities=dict(EMAIL_ADDRESS="mail"))
backends = [build_backend("personal", spec), build_backend("secrets", SecretsSpec(kind="secrets", category="keys"))]
for backend in backends:
    try:
        asyncio.run(backend.start())
    except Exception as error:
        print(type(error).__name__, error)
print(sorted({{"torch", "spacy", "transformers"}} & sys.modules.keys()))
"""


def test_it_needs_no_model_of_language() -> None:
    done = run(START.format(before=""))
    assert done.stdout == "[]\n", done.stderr


def test_without_the_extra_it_is_told_what_to_install() -> None:
    done = run(START.format(before='sys.modules.update(dict.fromkeys(["presidio_analyzer", "detect_secrets"]))'))
    personal, secrets, _ = done.stdout.splitlines()
    for told, kind in ((personal, "personal (personal-data)"), (secrets, "secrets (secrets)")):
        assert told.startswith(f"SettingsError backend {kind} needs ")
        assert "pip install 'chatmesh[detectors]'" in told
