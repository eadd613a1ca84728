"""Keys, tokens and passwords: what is found, how surely, and how far a key reaches."""

import base64
import json
import socket
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from services.moderation.backends.building import build_backend
from services.moderation.backends.port import Backend
from services.moderation.backends.secrets import HINT, STRUCTURE
from services.moderation.policy import SecretsSpec
from tests.unit.moderation.backends.contract import BackendContract, excerpt


def part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).decode().rstrip("=")


# Put together here, so that no scanner takes this file for a leak.
AWS = "AKIA" + "IOSFODNN7EXAMPL3"
GITHUB = "ghp_" + "a1B2c3D4e5F6" * 3
SLACK = "xoxb-" + "123456789012-abcdefABCDEF"
STRIPE = "sk_live_" + "a1B2c3D4" * 3
JWT = f"{part({'alg': 'HS256', 'typ': 'JWT'})}.{part({'sub': '1234', 'name': 'Jane'})}.c2lnbmF0dXJlLXNpZ25hdHVyZQ"
PEM = "-----BEGIN RSA PRIVATE KEY-----\n" + "MIIEowIBAAKCAQEA7vq3\n" * 4 + "-----END RSA PRIVATE KEY-----"
OPENSSH = PEM.replace("RSA", "OPENSSH")
PGP = PEM.replace("RSA PRIVATE KEY", "PGP PRIVATE KEY BLOCK")

FOUND = [
    (f"use {AWS} for it", AWS, STRUCTURE),
    (f"token: {GITHUB}.", GITHUB, STRUCTURE),
    (f"{SLACK}\nfoo", SLACK, STRUCTURE),
    (f"({STRIPE})", STRIPE, STRUCTURE),
    (f"Bearer {JWT}, it says", JWT, STRUCTURE),
    (f"Here:\n{PEM}\nKeep it safe.", PEM, STRUCTURE),
    (f"Here:\n{OPENSSH}\nKeep it safe.", OPENSSH, STRUCTURE),
    (f"Here:\n{PGP}\nKeep it safe.", PGP, STRUCTURE),
    ("db: postgres://admin:hunter2hunter@db/x", "hunter2hunter", STRUCTURE),
    ('password = "correct-horse-battery"', "correct-horse-battery", HINT),
    ('x = "c3VwZXIgbG9uZyBzdHJpbmcgc2hvdWxkIGNhdXNlIGVub3VnaCBlbnRyb3B5"', None, HINT),
]
NOT_FOUND = [
    "my secret is that I love you",
    'the "password" is important',
    'password = get_password("main")',
    'password = "<your password>"',
    'password = "${DB_PASSWORD}"',
    'id = "123e4567-e89b-12d3-a456-426614174000"',
    "-----BEGIN CERTIFICATE-----\nMIIDdzCCAl+gAwIBAgIEAgAAuTANBgkqhkiG9w0BAQUFADBa\n-----END CERTIFICATE-----",
    "-----BEGIN PUBLIC KEY-----\nMIIBIjANBgkqhkiG9w0BAQEFAAOCAQ8AMIIBCgKCAQEA\n-----END PUBLIC KEY-----",
    'print("hello world")',
    "",
]


@pytest_asyncio.fixture(scope="module")
async def subject() -> AsyncIterator[Backend]:
    backend = build_backend("secrets", SecretsSpec(kind="secrets", category="secrets"))
    await backend.start()
    yield backend
    await backend.stop()


class TestContract(BackendContract):
    """With the plugins of detect-secrets."""


async def found(subject: Backend, text: str) -> list[tuple[str, float]]:
    (judgement,) = await subject.judge([excerpt(text)])
    return [(text[span.start : span.end], span.score) for span in judgement.spans]


@pytest.mark.parametrize(("text", "what", "score"), FOUND, ids=[text[:12] for text, _, _ in FOUND])
async def test_it_finds(subject: Backend, text: str, what: str | None, score: float) -> None:
    assert await found(subject, text) == [(what or text.split('"')[1], score)]


@pytest.mark.parametrize("text", NOT_FOUND)
async def test_it_leaves_alone(subject: Backend, text: str) -> None:
    assert await found(subject, text) == []


async def test_every_place_of_a_key_is_found(subject: Backend) -> None:
    text = f"{AWS} and again {AWS}\nand {AWS}"
    assert await found(subject, text) == [(AWS, STRUCTURE)] * 3


async def test_what_is_longer_than_its_form_is_found_to_its_end(subject: Backend) -> None:
    assert await found(subject, f"{GITHUB}tail-end_x rest") == [(f"{GITHUB}tail-end_x", STRUCTURE)]


@pytest.mark.parametrize("key", [PEM, OPENSSH, PGP, JWT])
async def test_a_long_key_is_found_while_it_grows(subject: Backend, key: str) -> None:
    """From the end of its first line or part on, always up to the end of what there is."""
    text = f"Here it is: {key}"
    recognised = text.index("KEY") + 3 if "KEY" in text else text.index(".") + 1
    for end in range(recognised, len(text) + 1):
        ((what, score),) = await found(subject, text[:end])
        assert (what, score) == (text[12:end], STRUCTURE)


async def test_a_putty_key_ends_with_its_checksum(subject: Backend) -> None:
    key = "PuTTY-User-Key-File-3: ssh-ed25519\nComment: me\nPrivate-Lines: 1\nAAAA\nPrivate-MAC: 0123456789abcdef"
    assert await found(subject, f"x {key}\nbye") == [(key, STRUCTURE)]


async def test_no_service_is_asked_whether_a_key_works(subject: Backend, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_network(*arguments: object) -> None:
        raise AssertionError(f"the network was asked for: {arguments}")

    monkeypatch.setattr(socket, "getaddrinfo", no_network)
    monkeypatch.setattr(socket.socket, "connect", no_network)
    assert len(await found(subject, f"{AWS} {GITHUB} {SLACK} {STRIPE} {JWT}")) == 5


async def test_a_text_made_to_take_long_does_not(subject: Backend) -> None:
    units = (
        "a",
        "password ",
        'password="a',
        "://a:",
        "eyJ",
        "eyJ" + "a" * 20 + ".",
        "BEGIN PRIVATE KEY ",
        "\"a'",
        "aws ",
    )
    for unit in units:
        started_s = time.monotonic()
        await subject.judge([excerpt((unit * 16_000)[:16_000])])
        assert time.monotonic() - started_s < 3, unit
