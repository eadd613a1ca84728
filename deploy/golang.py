"""Programs written in Go that are built here, once: their pins stand in a go.mod and go.sum of ours."""

import re
import shutil
from collections.abc import Sequence
from pathlib import Path

from deploy.programs import ProgramError, ended, fetched

_BUILD_TIMEOUT_S = 900.0
_ASK_TIMEOUT_S = 30.0
_BUILD = ("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
# The toolchain that is installed is used, and what go.sum does not name is refused.
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}


def go_trouble(minimum: tuple[int, int]) -> str | None:
    """Why nothing can be built here, as the end of "… is built with "; None: it can."""
    wanted = f"Go {minimum[0]}.{minimum[1]} or newer"
    go = shutil.which("go")
    if go is None:
        return f"{wanted}, which is not on PATH"
    try:
        said = ended([go, "env", "GOVERSION"], timeout_s=_ASK_TIMEOUT_S).stdout
    except ProgramError as error:
        return f"{wanted}, and {error}"
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or tuple(map(int, found.groups())) < minimum:
        return f"{wanted}, and {go} is {said.strip() or 'unknown'}"
    return None


def go_build(package: str, sources: Path, output: Path, options: Sequence[str] = ()) -> None:
    """Build `package` of the module in `sources`; `output` is there whole or not at all. Raises ProgramError."""
    unfinished = output.with_suffix(".unfinished")
    command = ["go", *_BUILD, *options, "-o", str(unfinished), package]
    fetched(command, timeout_s=_BUILD_TIMEOUT_S, cwd=sources, env=_ENVIRONMENT)
    unfinished.rename(output)
