"""What detectors find is masked whole, wherever in a stream it lies: through the judge and the screen of an owner."""

from collections.abc import AsyncIterator, Sequence

import pytest
import pytest_asyncio

from services.moderation.backends.building import build_backend
from services.moderation.judging import JudgePool
from services.moderation.policy import Policy, parse_policy
from services.moderation.windows import Finding, TextScreen, Window
from tests.unit.moderation.backends.test_secrets import AWS, GITHUB, JWT, PEM

CHECKPOINT = 32
HOLD_BACK = 112
POLICY = f"""
version: edges-1
streaming: {{stride: 16, lookback: 256, hold_back: {HOLD_BACK}, checkpoint: {CHECKPOINT}}}
backends:
  personal-data:
    kind: personal-data
    entities: {{EMAIL_ADDRESS: personal-data, CREDIT_CARD: personal-data, IBAN_CODE: personal-data}}
  secrets: {{kind: secrets, category: secrets}}
categories:
  personal-data: {{output: mask, mask: "[personal]", thresholds: {{flag: 0.4, cut: 0.4}}}}
  secrets: {{output: mask, mask: "[secret]", thresholds: {{flag: 0.6, cut: 1}}}}
"""
LONGEST = HOLD_BACK - CHECKPOINT
MASKED = {
    "short address": ("jane@example.com", "[personal]"),
    "long address": ("jane." + "x" * (LONGEST - 17) + "@example.com", "[personal]"),
    "IBAN": ("MT84 MALT 0110 0001 2345 MTLC AST0 01S", "[personal]"),
    "card": ("4111 1111 1111 1111", "[personal]"),
    "key": (AWS, "[secret]"),
    "token": (GITHUB, "[secret]"),
    "signed token": (JWT, "[secret]"),
    "private key": (PEM, "[secret]"),
}
PLAIN = "The weather in the mountains was fine, and so we went on walking until it was dark. "


@pytest_asyncio.fixture(scope="module")
async def pool() -> AsyncIterator[JudgePool]:
    judges = JudgePool(build_backend)
    await judges.prepare(policy_of(POLICY))
    yield judges
    await judges.close()


def policy_of(text: str) -> Policy:
    return parse_policy(text)


class Stream:
    """A response as its owner screens it. `public`: what was public after each piece."""

    def __init__(self, policy: Policy, pool: JudgePool) -> None:
        self._judge = pool.judge(policy)
        self.screen = TextScreen(policy)
        self.public = [""]

    async def say(self, pieces: Sequence[str]) -> str:
        """What is public in the end."""
        for number, piece in enumerate(pieces, 1):
            windows = self.screen.feed(piece, final=number == len(pieces))
            found = [await self._findings(window) for window in windows]
            released = self.screen.resolve(windows, found).releases
            self.public.append(self.public[-1] + "".join(release.text for release in released))
        return self.public[-1]

    async def _findings(self, window: Window) -> Sequence[Finding]:
        if not window.checkpoint:
            return ()
        heard = await self._judge.hear(window)
        assert not heard.failed
        return heard.findings


def pieces_of(text: str, length: int) -> list[str]:
    return [text[start : start + length] for start in range(0, len(text), length)]


@pytest.mark.parametrize("name", MASKED)
async def test_it_is_masked_whole_over_every_edge(pool: JudgePool, name: str) -> None:
    what, mask = MASKED[name]
    policy = policy_of(POLICY)
    for shift in range(CHECKPOINT + 1):
        before, after = (PLAIN * 3)[: 200 + shift] + " ", " " + (PLAIN * 3)[:200]
        stream = Stream(policy, pool)
        said = await stream.say(pieces_of(before + what + after, 5))
        assert said == before + mask + after
        assert all(said.startswith(public) for public in stream.public)


async def test_the_end_of_the_text_is_an_edge_too(pool: JudgePool) -> None:
    policy = policy_of(POLICY)
    for what, mask in MASKED.values():
        for shift in range(0, CHECKPOINT, 5):
            before = PLAIN[:shift] + " "
            assert await Stream(policy, pool).say(pieces_of(before + what, 5)) == before + mask


async def test_pieces_change_nothing(pool: JudgePool) -> None:
    policy = policy_of(POLICY)
    text = PLAIN.join(f" {what} " for what, _ in MASKED.values())
    said = {await Stream(policy, pool).say(pieces_of(text, length)) for length in (1, 3, 64, len(text))}
    assert len(said) == 1
    assert not any(what in said.pop() for what, _ in MASKED.values() if said)


async def test_a_long_number_is_nothing_however_windows_part_it(pool: JudgePool) -> None:
    """To a window that begins within it, its tail alone is a card's number."""
    policy = policy_of(POLICY.replace('output: mask, mask: "[personal]"', "output: cut"))
    number = "7" * 40 + "4111111111111111"
    for shift in range(CHECKPOINT):
        text = PLAIN[:shift] + " " + number + " " + PLAIN * 5
        assert await Stream(policy, pool).say(pieces_of(text, 50)) == text


async def test_what_is_longer_than_the_hold_back_allows_leaves_its_head(pool: JudgePool) -> None:
    """What the documentation says of `hold_back` is no more than the truth: the tests above could fail."""
    policy = policy_of(POLICY)
    leaks = 0
    for shift in range(CHECKPOINT):
        before = (PLAIN * 3)[: 200 + shift] + " "
        said = await Stream(policy, pool).say(pieces_of(before + "j" * (LONGEST + 40) + "@example.com " + PLAIN * 2, 5))
        assert said.startswith(before)
        assert "@example" not in said
        leaks += not said.startswith(before + "[personal]")
    assert leaks


async def test_a_key_that_outgrows_the_windows_is_cut_before_its_first_letter(pool: JudgePool) -> None:
    """What the documentation advises for private keys: a mask could not reach their end."""
    policy = policy_of(POLICY.replace('output: mask, mask: "[secret]"', "output: cut"))
    key = PEM.replace("MIIEowIBAAKCAQEA7vq3\n", "MIIEowIBAAKCAQEA7vq3\n" * 40)
    for shift in range(0, CHECKPOINT, 3):
        before = PLAIN[:shift] + "Here it is:\n"
        assert await Stream(policy, pool).say(pieces_of(before + key + PLAIN, 5)) == before
