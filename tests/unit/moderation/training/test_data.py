"""Labelled examples out of files, and what is said of files that are missing or wrong."""

import gzip
import math
from pathlib import Path

import pytest

from services.moderation.backends.encoder.head import CATEGORIES, OUTPUTS
from services.moderation.training.data import HANDWRITTEN, LABELLED_FILE, labels_from, labels_of, read_material
from shared.errors import SettingsError
from tests.unit.moderation.training.made_up import write_folder, write_tweets


def test_what_is_not_labelled_is_unknown(tmp_path: Path) -> None:
    material = read_material(write_folder(tmp_path))
    sparse = material.labelled[10]
    assert all(math.isnan(label) for label in sparse.labels[:-1])
    assert sparse.labels[-1] == 0
    assert material.labelled[1].labels[0] == 1 == material.labelled[1].labels[-1]


def test_any_is_whether_one_is_known_to_be_there() -> None:
    assert labels_from({"hate": 1.0, "sexual": 0.0})[-1] == 1
    assert labels_from({"hate": 0.0})[-1] == 0


def test_tweets_teach_what_their_class_says_and_count_less(tmp_path: Path) -> None:
    further = read_material(write_folder(tmp_path)).further
    tweets = {example.text.split()[-1]: example for example in further[-3:]}
    hate = OUTPUTS.index("hate")
    assert tweets["vermin"].labels[hate] == 1 == tweets["vermin"].labels[-1]
    assert tweets["day"].labels[hate] == 0 == tweets["day"].labels[-1]
    assert tweets["moron"].labels[hate] == 0
    assert math.isnan(tweets["moron"].labels[-1])
    assert all(tweet.weight < 1 for tweet in tweets.values())
    assert "@you" not in tweets["vermin"].text


def test_a_hateful_tweet_that_one_person_saw_is_left_out(tmp_path: Path) -> None:
    write_folder(tmp_path)
    write_tweets(tmp_path, [("0", "1", "doubtful"), ("0", "2", "agreed")])
    texts = [example.text for example in read_material(tmp_path).further]
    assert "agreed" in texts
    assert "doubtful" not in texts


def test_the_handwritten_texts_teach_every_category_and_harmless_ones(tmp_path: Path) -> None:
    labels = labels_of(example for example in read_material(write_folder(tmp_path)).further if example.weight == 1)
    assert (labels[:, : len(CATEGORIES)].sum(0) >= 15).all()
    assert (labels[:, -1] == 0).sum() >= 150


def test_every_handwritten_text_stands_once(tmp_path: Path) -> None:
    texts = [example.text for example in read_material(write_folder(tmp_path)).further if example.weight == 1]
    assert len(set(texts)) == len(texts)


def test_an_unknown_category_is_named(tmp_path: Path) -> None:
    file = tmp_path / "texts.yaml"
    file.write_text("rudeness: [go away]\n")
    with pytest.raises(SettingsError, match="rudeness"):
        read_material(write_folder(tmp_path), file)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="nowhere is no folder"):
        read_material(tmp_path / "nowhere")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=LABELLED_FILE):
        read_material(tmp_path)


@pytest.mark.parametrize("line", ["no json", "[]", '{"text": "no prompt"}', '{"prompt": "x", "S": "yes"}'])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    with gzip.open(tmp_path / LABELLED_FILE, "wt") as file:
        file.write(f'{{"prompt": "fine", "S": 0}}\n{line}\n')
    with pytest.raises(SettingsError, match="line 2"):
        read_material(tmp_path)


def test_a_file_that_is_not_compressed_is_named(tmp_path: Path) -> None:
    (tmp_path / LABELLED_FILE).write_text("{}")
    with pytest.raises(SettingsError, match=LABELLED_FILE):
        read_material(tmp_path)


def test_the_handwritten_file_is_where_it_is_looked_for() -> None:
    assert HANDWRITTEN.is_file()
