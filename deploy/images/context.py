"""The build context: what of the repository an engine gets to see (.dockerignore), and how COPY copies."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from docker.utils.build import exclude_paths

from deploy.images.recipe import RecipeError

IGNORE_FILE = ".dockerignore"


class Context:
    """The files of `folder` that its .dockerignore lets through, by the rules of Docker's own client."""

    def __init__(self, folder: Path) -> None:
        lines = (folder / IGNORE_FILE).read_text(encoding="utf-8").splitlines()
        patterns = [line.strip() for line in lines if line.strip() and not line.lstrip().startswith("#")]
        self._folder = folder
        self._paths = frozenset(exclude_paths(str(folder), patterns))

    @property
    def paths(self) -> frozenset[str]:
        """Files and folders, relative to the repository."""
        return self._paths

    def copy(self, sources: tuple[str, ...], target: Path, *, into: bool) -> None:
        """COPY. `into`: the target is a folder that sources get into.

        Raises RecipeError for a source that is not there.
        """
        for source in sources:
            name = os.path.normpath(source)
            files = [path for path in self._below(name) if (self._folder / path).is_file()]
            if not files:
                raise RecipeError(f"COPY {source}: there is no such thing in the build context ({IGNORE_FILE})")
            for path in files:
                if (self._folder / name).is_file():
                    where = target / Path(name).name if into else target
                else:
                    where = target / Path(path).relative_to(name)
                where.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(self._folder / path, where)

    def _below(self, name: str) -> Iterator[str]:
        return (path for path in self._paths if path == name or path.startswith(f"{name}{os.sep}"))


def copy_from_stage(source: Path, target: Path, *, into: bool, move: bool = False) -> None:
    """COPY --from of one source; it may be moved where nobody misses it. Raises RecipeError if it is not there."""
    if not source.exists():
        raise RecipeError(f"COPY --from: the stage has no {source.name}")
    where = target / source.name if into and source.is_file() else target
    where.parent.mkdir(parents=True, exist_ok=True)
    if move and not where.exists():
        source.rename(where)
    elif source.is_dir():
        shutil.copytree(source, where, symlinks=True, dirs_exist_ok=True)
    else:
        shutil.copy(source, where)
