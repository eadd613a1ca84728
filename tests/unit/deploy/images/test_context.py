"""COPY, and what an engine gets to see of a folder."""

from pathlib import Path

import pytest

from deploy.images.context import Context, copy_from_stage
from deploy.images.recipe import RecipeError

IGNORE = """\
# a comment
*
!kept
!some/*.lock
kept/not
**/__pycache__
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("secret", "kept/a", "kept/b/c", "kept/not/d", "kept/b/__pycache__/e", "some/x.lock", "some/y.in"):
        file = tmp_path / "repository" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(name)
    (tmp_path / "repository" / ".dockerignore").write_text(IGNORE)
    return tmp_path / "repository"


def files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_only_what_the_list_names_is_seen(folder: Path) -> None:
    seen = {path for path in Context(folder).paths if (folder / path).is_file()}
    assert seen - {".dockerignore"} == {"kept/a", "kept/b/c", "some/x.lock"}


def test_a_folder_gives_its_content_and_a_file_itself(folder: Path, tmp_path: Path) -> None:
    context = Context(folder)
    context.copy(("kept",), tmp_path / "image/kept", into=False)
    context.copy(("some/x.lock", "kept/a"), tmp_path / "image/locks", into=True)
    context.copy(("kept/a",), tmp_path / "image/renamed", into=False)
    assert files(tmp_path / "image") == {"kept/a", "kept/b/c", "locks/x.lock", "locks/a", "renamed"}


@pytest.mark.parametrize("source", ["secret", "kept/not", "nothing"])
def test_what_is_not_seen_cannot_be_copied(folder: Path, tmp_path: Path, source: str) -> None:
    with pytest.raises(RecipeError, match=source):
        Context(folder).copy((source,), tmp_path / "image", into=False)


@pytest.mark.parametrize("move", [True, False])
def test_a_stage_gives_a_folder_or_a_file(folder: Path, tmp_path: Path, move: bool) -> None:
    image = tmp_path / "image"
    copy_from_stage(folder / "kept/b", image / "b", into=False, move=move)
    copy_from_stage(folder / "kept/a", image / "here", into=True, move=move)
    assert files(image) == {"b/c", "b/__pycache__/e", "here/a"}
    assert (folder / "kept/a").exists() is not move


def test_a_stage_cannot_give_what_it_lacks(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no absent"):
        copy_from_stage(tmp_path / "absent", tmp_path / "image", into=False)
