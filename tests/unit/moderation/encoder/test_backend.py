"""The default classifier behind its port, with a head whose scores can be told: the share of a word in a window."""

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytest_asyncio

from services.moderation.backends.encoder import EncoderBackend, backend, classifier, head_revision
from services.moderation.backends.encoder.head import Head
from services.moderation.backends.port import BackendError, Excerpt
from shared.errors import SettingsError
from tests.unit.moderation.backends.contract import BackendContract

pytestmark = pytest.mark.weights

LONG = "calm words all over. " * 60


class CountingHead:
    """`hate`: how often a window says "bad", in tenths. `sexual`: something of the encoder's, so that it matters."""

    layers = (1, 2)
    outputs = ("hate", "sexual")

    def __init__(self) -> None:
        self.scored: list[str] = []

    def score_all(self, pooled: Any, texts: Sequence[str]) -> Any:
        self.scored += texts
        own = [min(1.0, text.count("bad") / 10) for text in texts]
        return np.stack([np.array(own, np.float32), 1 / (1 + np.exp(-pooled[:, 0, 0]))], 1)


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> CountingHead:
    found = CountingHead()
    monkeypatch.setattr(classifier, "load_head", lambda: found)
    monkeypatch.setattr(backend, "HEAD_FILE", tmp_path / "head.npz")
    (tmp_path / "head.npz").write_bytes(b"a head")
    head_revision.cache_clear()
    return found


@pytest.fixture
async def started(head: CountingHead) -> AsyncIterator[EncoderBackend]:
    encoder = EncoderBackend("plain")
    await encoder.start()
    yield encoder
    await encoder.stop()
    head_revision.cache_clear()


def excerpt(text: str) -> Excerpt:
    return Excerpt(text, text, "output")


async def test_the_highest_window_of_a_text_is_its_score(started: EncoderBackend, head: CountingHead) -> None:
    (judgement,) = await started.judge([excerpt(f"{LONG} bad bad bad {LONG}")])
    assert len(head.scored) > 5
    assert judgement.scores["hate"] == pytest.approx(0.3)
    assert judgement.spans == ()


async def test_it_reads_what_was_normalised(started: EncoderBackend) -> None:
    (judgement,) = await started.judge([Excerpt("b4d", "bad", "input")])
    assert judgement.scores["hate"] == pytest.approx(0.1)


async def test_a_text_scores_alike_alone_and_among_others_however_calls_overlap(started: EncoderBackend) -> None:
    texts = ["", "bad", "a bad day", LONG, f"{LONG} bad", "é\ud800 ✓", *(f"number {n} " * n for n in range(9))]
    together = await asyncio.gather(*(started.judge([excerpt(text) for text in texts[n:]]) for n in range(3)))
    fresh = EncoderBackend("fresh")
    await fresh.start()
    alone = [(await fresh.judge([excerpt(text)]))[0] for text in texts]
    await fresh.stop()
    assert together == [alone[n:] for n in range(3)]


async def test_what_was_judged_before_is_remembered(started: EncoderBackend, head: CountingHead) -> None:
    first = await started.judge([excerpt(LONG), excerpt("bad")])
    scored = len(head.scored)
    assert await started.judge([excerpt("bad"), excerpt(LONG)]) == first[::-1]
    assert len(head.scored) == scored
    assert len(set(head.scored)) == scored


async def test_a_short_text_does_not_wait_for_a_long_one_to_end(started: EncoderBackend) -> None:
    ended: list[str] = []

    async def judge(name: str, text: str) -> None:
        await started.judge([excerpt(text)])
        ended.append(name)

    numbers = " ".join(str(n * 7919) for n in range(2000))
    await asyncio.gather(judge("long", numbers), judge("short", "a bad day"))
    assert ended == ["short", "long"]


async def test_a_cancelled_call_ends_soon_and_leaves_it_usable(started: EncoderBackend, head: CountingHead) -> None:
    numbers = " ".join(str(n * 7919) for n in range(4000))
    call = asyncio.create_task(started.judge([excerpt(numbers)]))
    while not head.scored:
        await asyncio.sleep(0.001)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    (judgement,) = await started.judge([excerpt("bad")])
    assert judgement.scores["hate"] == pytest.approx(0.1)
    assert len(head.scored) < 40


async def test_it_names_what_it_scores_once_it_is_started(started: EncoderBackend, head: CountingHead) -> None:
    assert started.categories == {"hate", "sexual"}
    with pytest.raises(BackendError, match="was not started"):
        await EncoderBackend("other").judge([excerpt("a")])


def test_the_revision_is_a_digest_of_the_head_and_the_rules(
    head: CountingHead, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = head_revision()
    assert EncoderBackend("plain").revision == first
    monkeypatch.setattr(backend, "RULES", backend.RULES + 1)
    head_revision.cache_clear()
    second = head_revision()
    backend.HEAD_FILE.write_bytes(b"another head")
    head_revision.cache_clear()
    assert len({first, second, head_revision()}) == 3
    head_revision.cache_clear()


def test_without_a_head_it_says_how_to_make_one(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(backend, "HEAD_FILE", tmp_path / "none.npz")
    head_revision.cache_clear()
    with pytest.raises(SettingsError, match="make train-moderation"):
        EncoderBackend("plain")


async def test_without_torch_it_says_what_to_install(head: CountingHead, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    encoder = EncoderBackend("plain")
    with pytest.raises(SettingsError, match=r"needs torch: install chatmesh\[moderation\]"):
        await encoder.start()
    await encoder.stop()
    head_revision.cache_clear()


async def test_it_computes_on_as_many_cores_as_it_may_take(head: CountingHead, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    encoder = EncoderBackend("plain", threads=3)
    await encoder.start()
    await encoder.stop()
    head_revision.cache_clear()
    assert asked == [3]


def test_naming_it_loads_nothing_heavy() -> None:
    code = (
        "import sys; import services.moderation.backends.encoder; "
        "print([name for name in ('torch', 'numpy', 'tokenizers') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


@pytest_asyncio.fixture(scope="module")
async def shipped() -> AsyncIterator[EncoderBackend]:
    """With the head that is committed."""
    encoder = EncoderBackend("shipped")
    await encoder.start()
    yield encoder
    await encoder.stop()


class TestContract(BackendContract):
    """What every backend keeps to, with the committed head."""

    @pytest.fixture
    def subject(self, shipped: EncoderBackend) -> EncoderBackend:
        return shipped


async def test_the_shipped_head_scores_what_it_was_taught(shipped: EncoderBackend) -> None:
    assert shipped.categories == {*Head.outputs}
    threat, greeting = await shipped.judge([excerpt("i will kill you and your family"), excerpt("hello, how are you?")])
    assert set(threat.scores) == set(Head.outputs)
    assert threat.scores["any"] > 0.5
    assert greeting.scores["any"] < 0.25


async def test_the_shipped_head_too_judges_each_text_by_itself(shipped: EncoderBackend) -> None:
    texts = [f"text number {n}: " + "he said that he would kill them all. " * (n % 9) for n in range(24)]
    together = await shipped.judge([excerpt(text) for text in texts])
    fresh = EncoderBackend("fresh")
    await fresh.start()
    alone = [(await fresh.judge([excerpt(text)]))[0] for text in texts]
    await fresh.stop()
    assert together == alone
