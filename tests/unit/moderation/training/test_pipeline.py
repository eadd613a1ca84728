"""From a data folder to a head, with made-up texts and an encoder that only counts words."""

from pathlib import Path

import numpy as np
import pytest

from services.moderation.backends.encoder.head import OUTPUTS, load_head
from services.moderation.training import __main__ as command
from services.moderation.training.__main__ import main, read_texts, report, train, unseen_probabilities, write
from services.moderation.training.data import read_material
from services.moderation.training.quality import quality
from services.moderation.training.rehearsal import Run, Texts, rehearse
from tests.unit.moderation.training.made_up import WordCutter, WordPooler, write_folder

SEXUAL, HATE = OUTPUTS.index("sexual"), OUTPUTS.index("hate")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Texts:
    folder = write_folder(tmp_path_factory.mktemp("data"))
    return read_texts(read_material(folder), WordCutter(), WordPooler(), lambda line: None)


@pytest.fixture(scope="module")
def runs(texts: Texts) -> list[Run]:
    return rehearse(texts, [0], lambda line: None)


def test_unseen_texts_are_told_apart(texts: Texts, runs: list[Run]) -> None:
    scores = unseen_probabilities(texts, runs[0], runs)
    for output in (SEXUAL, HATE):
        assert quality(scores[:, output], texts.truth[:, output]).auprc > 0.9


def test_no_text_is_judged_by_a_head_that_saw_it(texts: Texts, runs: list[Run]) -> None:
    """With labels that have nothing to do with the texts, nothing can be learnt that helps with unseen ones."""
    shuffled = texts.labels.copy()
    np.random.default_rng(1).shuffle(shuffled[: texts.measured])
    drawn = texts._replace(labels=shuffled)
    (run,) = rehearse(drawn, [0], lambda line: None)
    found = quality(unseen_probabilities(drawn, run, [run])[:, -1], drawn.truth[:, -1])
    share = float((drawn.truth[:, -1] == 1).mean())
    assert found.auprc < share + 0.2


def test_training_again_gives_the_same_file(texts: Texts, runs: list[Run], tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.npz", "other.npz")]
    for file in files:
        write(file, train(texts, runs))
    assert files[0].read_bytes() == files[1].read_bytes()


def test_the_written_head_knows_what_it_was_trained_on(texts: Texts, runs: list[Run], tmp_path: Path) -> None:
    write(tmp_path / "head.npz", train(texts, runs))
    head = load_head(tmp_path / "head.npz")
    said = ["we talked of naked them naked and the garden", "we talked of rain, bread and the garden"]
    windows = [WordCutter().windows(text)[0] for text in said]
    scores = head.score(WordPooler().pooled([ids for ids, _ in windows]), [text for _, text in windows])
    assert scores[0, SEXUAL] > 0.5 > scores[1, SEXUAL]
    assert scores[0].argmax() == SEXUAL


def test_no_word_of_the_data_is_in_the_file(texts: Texts, runs: list[Run], tmp_path: Path) -> None:
    write(tmp_path / "head.npz", train(texts, runs))
    with np.load(tmp_path / "head.npz", allow_pickle=False) as arrays:
        assert {arrays[name].dtype.kind for name in arrays.files} <= {"f", "u", "i"}


def test_the_report_has_every_output_and_the_blend(texts: Texts, runs: list[Run]) -> None:
    lines = "\n".join(report(texts, runs, blend=True))
    assert all(lines.count(f"\n{name} ") == 4 for name in OUTPUTS)
    assert "plain blend" in lines


@pytest.fixture
def encoder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_encoder", lambda: (WordCutter(), WordPooler()))


@pytest.mark.usefixtures("encoder")
def test_the_command_says_how_far_it_is_and_writes_a_head(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = tmp_path / "head.npz"
    options = ["--data", str(write_folder(tmp_path)), "--out", str(head), "--seeds", "1", "--no-blend"]
    assert main(options) == 0
    said = capsys.readouterr().out
    assert "read 153 labelled texts" in said
    assert "seed 0, fold 5 of 5" in said
    assert "plain blend" not in said
    assert load_head(head).revision in said


@pytest.mark.usefixtures("encoder")
def test_the_command_says_what_is_missing_before_it_starts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--data", str(tmp_path / "nowhere")]) == 1
    assert "nowhere is no folder" in capsys.readouterr().err
    assert main(["--data", str(write_folder(tmp_path)), "--out", str(tmp_path / "no" / "head.npz")]) == 1
    assert "is no folder: the head" in capsys.readouterr().err
