"""Text-classification models of Hugging Face: tiny ones, in a folder."""

import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from services.moderation.backends.building import build_backend
from services.moderation.backends.classification import ROWS, folder_digest
from services.moderation.backends.hugging_face import HuggingFaceBackend
from services.moderation.backends.port import Backend, BackendError, Excerpt
from services.moderation.policy import TextClassificationSpec
from shared.errors import SettingsError
from tests.unit.moderation.backends.contract import BackendContract, excerpt, excerpts
from tests.unit.moderation.backends.models import WINDOW, write_classifier

LABELS = ("toxic", "obscene", "threat", "neutral")
CATEGORIES = {"toxic": "harassment", "obscene": "sexual", "threat": "harassment"}


@pytest.fixture(scope="session")
def many_labels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("sigmoid"), LABELS, "multi_label_classification")


@pytest.fixture(scope="session")
def one_label(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_classifier(tmp_path_factory.mktemp("softmax"), LABELS, "single_label_classification")


def spec(model: Path | str, **changes: Any) -> TextClassificationSpec:
    return TextClassificationSpec(
        **{"kind": "text-classification", "model": str(model), "labels": CATEGORIES, **changes}
    )


async def started(given: TextClassificationSpec) -> HuggingFaceBackend:
    backend = build_backend("toxicity", given)
    assert isinstance(backend, HuggingFaceBackend)
    await backend.start()
    return backend


@pytest_asyncio.fixture(scope="module", params=["many_labels", "one_label"])
async def subject(request: pytest.FixtureRequest) -> AsyncIterator[Backend]:
    backend = await started(spec(request.getfixturevalue(request.param)))
    yield backend
    await backend.stop()


class TestContract(BackendContract):
    """Of a model that gives each label a probability of its own, and of one that chooses among them."""


def expected(folder: Path, text: str, softmax: bool) -> list[float]:
    """By transformers' own means, of a text that fits the model's window."""
    import torch
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(folder))
    model = AutoModelForSequenceClassification.from_pretrained(str(folder)).eval()
    with torch.no_grad():
        logits = model(**tokenizer(text, return_tensors="pt")).logits[0]
    scores: list[float] = (logits.softmax(-1) if softmax else logits.sigmoid()).tolist()
    return scores


@pytest.mark.parametrize("activation", [None, "sigmoid", "softmax"])
async def test_scores_are_those_of_the_model(many_labels: Path, one_label: Path, activation: str | None) -> None:
    """The configuration says which activation, unless the policy does."""
    text = "the quick brown fox"
    for folder, own in ((many_labels, "sigmoid"), (one_label, "softmax")):
        backend = await started(spec(folder, activation=activation))
        (judgement,) = await backend.judge([excerpt(text)])
        toxic, obscene, threat, _ = expected(folder, text, (activation or own) == "softmax")
        assert judgement.scores == pytest.approx({"harassment": max(toxic, threat), "sexual": obscene}, abs=1e-6)
        await backend.stop()


async def test_flagged_is_what_the_model_itself_says(many_labels: Path, one_label: Path) -> None:
    texts = ["the quick brown fox", "word", "all work and no play", "lazy dog", "boy dull boy", "over the fox"]
    for folder, softmax in ((many_labels, False), (one_label, True)):
        backend = await started(spec(folder))
        seen = set()
        for text, judgement in zip(texts, await backend.judge(excerpts(texts)), strict=True):
            scores = dict(zip(LABELS, expected(folder, text, softmax), strict=True))
            said = (
                {max(scores, key=scores.__getitem__)} if softmax else {label for label, p in scores.items() if p >= 0.5}
            )
            assert judgement.flagged == {CATEGORIES[label] for label in said if label in CATEGORIES}
            seen.add(judgement.flagged)
        assert len(seen) > 1, "the texts do not tell models apart that always say the same"
        await backend.stop()


async def test_of_a_long_text_the_worst_window_counts(many_labels: Path) -> None:
    """Wherever in it what the model dislikes most stands, and though the whole would not fit by far."""
    backend = await started(spec(many_labels))
    single = {
        word: (await backend.judge([excerpt(word)]))[0].scores["sexual"] for word in ("boy", "fox", "dull", "jumps")
    }
    filler, worst = (f"{word} " for word in (min(single, key=single.__getitem__), max(single, key=single.__getitem__)))
    (clean,) = await backend.judge([excerpt(filler * 100)])
    for before in (0, 20, 50, 80):
        text = filler * before + worst * WINDOW + filler * (100 - before)
        (judgement,) = await backend.judge([excerpt(text)])
        assert judgement.scores["sexual"] > clean.scores["sexual"]
    await backend.stop()


async def test_what_is_disguised_is_read_both_ways(many_labels: Path) -> None:
    backend = await started(spec(many_labels))
    plain, disguise = "the quick brown fox", "th\u0435 qu\u0456ck br0wn f0x"
    (judgement,) = await backend.judge([Excerpt(raw=disguise, text=plain, stage="input")])
    raw, normal = await backend.judge(excerpts([disguise, plain]))
    assert judgement.scores == {category: max(raw.scores[category], normal.scores[category]) for category in raw.scores}
    assert judgement.flagged == raw.flagged | normal.flagged
    assert raw.scores != normal.scores
    (capitals,) = await backend.judge([Excerpt(raw=plain.upper(), text=plain, stage="input")])
    assert capitals == normal
    await backend.stop()


async def test_rows_of_an_accelerator_change_nothing(many_labels: Path) -> None:
    """Always as many rows, padded: to the last bit the same, whoever fills them; and what the model says, alone too."""
    backend = await started(spec(many_labels))
    model = backend._model
    assert model is not None
    texts = ["the quick brown fox", "word", "dull boy " * 30, "all work and no play makes jack a dull boy", "fox " * 22]
    alone = await backend.judge(excerpts(texts))
    model._rows = ROWS
    padded = [(await backend.judge([excerpt(text)]))[0] for text in texts]
    assert await backend.judge(excerpts(texts)) == padded
    assert await backend.judge(excerpts(texts[::-1] * 9)) == padded[::-1] * 9
    for one, other in zip(alone, padded, strict=True):
        assert one.scores == pytest.approx(other.scores, abs=1e-5)
    await backend.stop()


async def test_a_label_that_the_model_lacks_is_told_with_those_that_it_has(many_labels: Path) -> None:
    with pytest.raises(
        SettingsError, match=r"backend toxicity: .* has no label insult, rude; it has toxic, obscene, .*"
    ):
        await started(spec(many_labels, labels={"insult": "harassment", "rude": "harassment", "toxic": "harassment"}))


async def test_no_model_is_told_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"backend toxicity: the model .*nowhere cannot be loaded"):
        await started(spec(tmp_path / "nowhere"))


async def test_a_regression_needs_an_activation(tmp_path: Path) -> None:
    folder = write_classifier(tmp_path, ["toxic"], "regression")
    with pytest.raises(SettingsError, match="say which activation"):
        await started(spec(folder, labels={"toxic": "harassment"}))
    backend = await started(spec(folder, labels={"toxic": "harassment"}, activation="sigmoid"))
    assert 0 < (await backend.judge([excerpt("the fox")]))[0].scores["harassment"] < 1
    await backend.stop()


async def test_another_model_is_another_revision(tmp_path: Path, many_labels: Path) -> None:
    again = write_classifier(tmp_path / "again", LABELS, "multi_label_classification")
    other = write_classifier(tmp_path / "other", LABELS[::-1], "multi_label_classification")
    assert folder_digest(many_labels) == folder_digest(again) != folder_digest(other)
    weights = again / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"\x00")
    assert folder_digest(many_labels) != folder_digest(again)
    backend = await started(spec(many_labels))
    assert backend.revision == folder_digest(many_labels)
    await backend.stop()


async def test_a_score_that_is_no_number_is_a_failure(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = write_classifier(tmp_path, LABELS, "multi_label_classification")
    weights = load_file(folder / "model.safetensors")
    weights["classifier.bias"][:] = math.nan
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    backend = await started(spec(folder))
    with pytest.raises(BackendError, match=r"toxicity: the score of \w+ is nan"):
        await backend.judge([excerpt("the fox")])
    await backend.stop()


async def test_a_model_that_breaks_is_a_failure_that_passes(many_labels: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    backend = await started(spec(many_labels))
    before = await backend.judge([excerpt("the fox")])

    def no_memory(*_: object) -> None:
        raise RuntimeError("out of memory: tried to allocate 80 GiB")

    with monkeypatch.context() as broken:
        broken.setattr(backend._model, "_forward", no_memory, raising=True)
        with pytest.raises(BackendError, match=r"the model failed with RuntimeError$"):
            await backend.judge([excerpt("the fox")])
    assert await backend.judge([excerpt("the fox")]) == before
    await backend.stop()


async def test_a_tokenizer_that_knows_no_limit_is_held_to_the_positions(many_labels: Path) -> None:
    """The tiny tokenizer says that it reads 10^30 tokens; the model has positions for WINDOW."""
    backend = await started(spec(many_labels))
    model = backend._model
    assert model is not None
    assert model._window == WINDOW
    assert len(model._windows(["fox " * 100])) > 1
    await backend.stop()


async def test_nothing_is_judged_before_start(many_labels: Path) -> None:
    with pytest.raises(BackendError, match="was not started"):
        await build_backend("toxicity", spec(many_labels)).judge([excerpt("the fox")])


async def test_it_computes_on_as_many_cores_as_it_may_take(one_label: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    monkeypatch.setattr("torch.set_num_threads", asked.append)
    backend = build_backend("toxicity", spec(one_label), threads=3)
    await backend.start()
    await backend.stop()
    assert asked == [3]
