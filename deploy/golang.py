"""Programs written in Go that are built here, once: their pins stand in a go.mod and go.sum of ours."""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

_TIMEOUT_S = 900.0
_BUILD = ("build", "-trimpath", "-buildvcs=false", "-ldflags=-s -w")
# The toolchain that is installed is used, and what go.sum does not name is refused.
_ENVIRONMENT = {"CGO_ENABLED": "0", "GOTOOLCHAIN": "local", "GOFLAGS": "-mod=readonly"}


class GoBuildError(Exception):
    """Go could not build; the message holds what it said."""


def go_trouble(minimum: tuple[int, int]) -> str | None:
    """Why nothing can be built here, as the end of "… is built with "; None: it can."""
    wanted = f"Go {minimum[0]}.{minimum[1]} or newer"
    go = shutil.which("go")
    if go is None:
        return f"{wanted}, which is not on PATH"
    said = subprocess.run([go, "env", "GOVERSION"], capture_output=True, text=True, check=False).stdout
    found = re.match(r"go(\d+)\.(\d+)", said)
    if found is None or tuple(map(int, found.groups())) < minimum:
        return f"{wanted}, and {go} is {said.strip() or 'unknown'}"
    return None


def go_build(package: str, sources: Path, output: Path, options: Sequence[str] = ()) -> None:
    """Build `package` of the module in `sources`; `output` is there whole or not at all. Raises GoBuildError."""
    unfinished = output.with_suffix(".unfinished")
    try:
        done = subprocess.run(
            ["go", *_BUILD, *options, "-o", str(unfinished), package],
            cwd=sources,
            env={**os.environ, **_ENVIRONMENT},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GoBuildError(str(error)) from error
    if done.returncode != 0:
        raise GoBuildError((done.stdout + done.stderr)[-4000:])
    unfinished.rename(output)
