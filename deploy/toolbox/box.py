"""Where a tool lies: on PATH, or in build/tools, made there when it is first asked for."""

import fcntl
import re
import shutil
import sys
import tempfile
from pathlib import Path

from deploy.programs import ProgramError, ended
from deploy.toolbox.recipes import RecipeError
from deploy.toolbox.tools import TOOLS, OnPath, Tool

_BOX = Path(__file__).resolve().parents[2] / "build" / "tools"
_ASK_TIMEOUT_S = 10.0


class ToolMissingError(Exception):
    """The tool is not on PATH, or too old, and could not be made; the message says what to do."""


def tool_path(name: str, box: Path = _BOX) -> Path:
    """The tool, ready to run. The first call may take half a minute and says on stderr what it does.

    Raises ToolMissingError; KeyError if nobody declared a tool of that name.
    """
    tool = TOOLS[name]
    try:
        return _on_path(name, tool.on_path) or _made(name, tool, box)
    except OSError as error:
        raise ToolMissingError(f"{name} could not be put into {box}: {error}") from error


def _on_path(name: str, wanted: OnPath | None) -> Path | None:
    found = shutil.which(name)
    if wanted is None or found is None:
        return None
    try:
        said = ended([found, *wanted.arguments], timeout_s=_ASK_TIMEOUT_S)
    except ProgramError:
        return None  # of no use, as one of no version is
    return Path(found) if version_in(said.stdout + said.stderr) >= wanted.minimum else None


def version_in(text: str) -> tuple[int, ...]:
    """The first version that stands in it, like 2.42.0; () if none does."""
    found = re.search(r"\d+(?:\.\d+)+", text)
    return tuple(map(int, found[0].split("."))) if found else ()


def _made(name: str, tool: Tool, box: Path) -> Path:
    """Folders are named after what is in them, and are there whole or not at all."""
    folder = box / f"{type(tool.recipe).__name__.lower()}-{tool.recipe.digest()}"
    box.mkdir(parents=True, exist_ok=True)
    with (box / f"{folder.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # two test runs may come here at once
        if not folder.exists():
            print(f"{name}: {tool.recipe.how}", file=sys.stderr, flush=True)
            _make(name, tool, folder)
    return folder / tool.path


def _make(name: str, tool: Tool, folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:
        unfinished = Path(temporary) / folder.name
        unfinished.mkdir()
        try:
            tool.recipe.make(unfinished)
        except RecipeError as error:
            raise ToolMissingError(f"{name} {error}") from error
        except ProgramError as error:
            raise ToolMissingError(f"{name} could not be made: {error}") from error
        unfinished.rename(folder)
