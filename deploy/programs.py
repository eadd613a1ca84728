"""Programs of others that do one thing for us and end: within a time, and with one error for all that can go wrong."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from itertools import takewhile
from pathlib import Path

_MOST_SAID = 4000
_PAUSES_S = (2.0, 10.0)
"""Before the second and the third try."""


class ProgramError(Exception):
    """It could not be executed, did not end in time, or failed; the message names it and ends with what it said."""


class ProgramFailedError(ProgramError):
    """It ended with another status than 0."""


def ended(
    argv: Sequence[str], *, timeout_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> "subprocess.CompletedProcess[str]":
    """What it wrote, and its exit code, whatever that is. It has nothing to read, and `env` besides our environment.

    Raises ProgramError.
    """
    try:
        return subprocess.run(
            argv,
            cwd=cwd,
            env={**os.environ, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except OSError as error:
        raise ProgramError(f"{_name(argv)} cannot be executed: {error}") from error
    except subprocess.TimeoutExpired as error:
        raise ProgramError(f"{_name(argv)} did not end within {timeout_s:g} s") from error


def succeed(
    argv: Sequence[str], *, timeout_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """What it wrote to stdout, then what it wrote to stderr. Raises ProgramError unless it ended with 0."""
    done = ended(argv, timeout_s=timeout_s, cwd=cwd, env=env)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        raise ProgramFailedError(f"{_name(argv)} ended with {done.returncode}: {said.strip()[-_MOST_SAID:]}")
    return said


def fetched(
    argv: Sequence[str], *, timeout_s: float, cwd: Path | None = None, env: Mapping[str, str] | None = None
) -> str:
    """The same of a program that asks a package registry: where it fails it is tried again twice, after a pause.

    A registry is away for a moment now and then, and not every program asks it more than once.
    """
    for pause_s in _PAUSES_S:
        try:
            return succeed(argv, timeout_s=timeout_s, cwd=cwd, env=env)
        except ProgramFailedError as error:
            print(f"{error}; tried again in {pause_s:g} s", file=sys.stderr)
            time.sleep(pause_s)
    return succeed(argv, timeout_s=timeout_s, cwd=cwd, env=env)


def _name(argv: Sequence[str]) -> str:
    """The program and what it was asked to do, without options and what comes behind them."""
    return " ".join([Path(argv[0]).name, *takewhile(lambda word: not word.startswith("-"), argv[1:3])])
