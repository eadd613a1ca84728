"""Labelled files: what is read, and what is said of those that cannot be."""

import gzip
import json
from pathlib import Path

import pytest

from services.moderation.evaluation.dataset import DatasetError, Sample, read_samples


def written(folder: Path, *rows: object, name: str = "x.jsonl") -> Path:
    file = folder / name
    file.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return file


def test_labels_go_by_openais_names_and_by_those_of_its_data_set(tmp_path: Path) -> None:
    rows = [{"text": "a", "hate": 1, "S": 0, "V": None, "id": "x"}, {"prompt": "b", "H2": 1, "hate/threatening": 0}]
    first, second = read_samples(written(tmp_path, *rows))
    assert first == Sample("a", {"hate": True, "sexual": False})
    assert second == Sample("b", {"hate/threatening": True})


def test_any_is_what_is_said_or_what_follows(tmp_path: Path) -> None:
    rows = [{"text": "a", "V": 1, "S": 0}, {"text": "b", "S": 0}, {"text": "c", "any": 1}, {"text": "d"}]
    assert [sample.label("any") for sample in read_samples(written(tmp_path, *rows))] == [True, False, True, None]


def test_spans_are_positions_or_pairs(tmp_path: Path) -> None:
    rows = [
        {"text": "0123456789", "spans": [5, 6, 2, 3]},
        {"text": "0123456789", "spans": [[2, 4], [5, 7]]},
        {"text": "0123456789", "spans": []},
        {"text": "0123456789", "V": 0},
    ]
    assert [sample.spans for sample in read_samples(written(tmp_path, *rows))] == [
        ((2, 4), (5, 7)),
        ((2, 4), (5, 7)),
        (),
        None,
    ]


def test_tables_and_archives_are_read_too(tmp_path: Path) -> None:
    file = tmp_path / "x.csv.gz"
    with gzip.open(file, "wt", newline="") as lines:
        lines.write('spans,text,V,S\n"[0, 1]","ab, ""c""\nd",1,\n"[]",e,0,0\n')
    first, second = read_samples(file)
    assert first == Sample('ab, "c"\nd', {"violence": True}, ((0, 2),))
    assert second == Sample("e", {"violence": False, "sexual": False}, ())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (['{"text": "a", "V": 1}', "{oops"], r"x\.jsonl:2 is not JSON"),
        (["[1]"], r"x\.jsonl:1 must be an object"),
        ([{"V": 1}], r"x\.jsonl:1 has no text"),
        ([{"text": 5, "V": 1}], r"x\.jsonl:1 has no text"),
        ([{"text": "a", "V": 2}], r"x\.jsonl:1: V is 2, and must be 1, 0 or absent"),
        ([{"text": "a", "hate": "yes"}], r"x\.jsonl:1: hate is 'yes'"),
        ([{"text": "a", "spans": [7]}], r"the span \[7, 8\) is not within the text of 1 code points"),
        ([{"text": "a", "spans": ["x"]}], r"spans has 'x'"),
        ([{"text": "a", "spans": 3}, {"text": "b"}], "not within the text"),
        ([{"text": "a"}, {"text": "b", "label": 1}], "has no labels"),
        ([], "has no texts"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, rows: list[object], message: str) -> None:
    with pytest.raises(DatasetError, match=message):
        read_samples(written(tmp_path, *rows))


def test_a_file_that_is_not_there_or_no_archive(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="there is no file"):
        read_samples(tmp_path / "x.jsonl")
    with pytest.raises(DatasetError, match="cannot read"):
        read_samples(written(tmp_path, "{}", name="x.jsonl.gz"))
    (tmp_path / "y.jsonl").write_bytes(b'{"text": "\xff"}')
    with pytest.raises(DatasetError, match="cannot read"):
        read_samples(tmp_path / "y.jsonl")
    with pytest.raises(DatasetError, match=r"x\.csv:2: spans is"):
        read_samples(written(tmp_path, "text,spans", "a,[oops", name="x.csv"))
