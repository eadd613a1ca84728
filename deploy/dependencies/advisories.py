"""Asking for known weaknesses: `pip-audit` (PyPI's advisories) for the locks, `npm audit` for npm's lock files.

Both ask over the network. Where nobody answers, or what answers has no advisories, that is said and is no fault; to
tell it from "nothing found", a package that is known to be unsafe is asked for first.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deploy.dependencies.locks import ROOT, Pin
from deploy.dependencies.verdict import Finding
from deploy.programs import ProgramError, ended

KNOWN_UNSAFE = Pin("jinja2", "2.4.1", "jinja2==2.4.1")
"""Has had advisories for years: who does not name one has no data."""
_AT_ONCE = 6
_TIMEOUT_S = 45.0
"""A network that swallows packets must not hold `make check` up for longer."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a source knows. `missing`: why it could not say, empty if it could."""

    findings: tuple[Finding, ...] = ()
    missing: str = ""


def of_python(pins: Sequence[Pin]) -> Answer:
    """Known weaknesses of `pins`."""
    canary = _pip_audit([KNOWN_UNSAFE])
    if canary.missing or not canary.findings:
        why = canary.missing or f"it knows nothing of {KNOWN_UNSAFE.name} {KNOWN_UNSAFE.version}, which is unsafe"
        return Answer(missing=why)
    shares = [pins[n::_AT_ONCE] for n in range(_AT_ONCE) if pins[n::_AT_ONCE]]
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        answers = list(pool.map(_pip_audit, shares))
    missing = next((answer.missing for answer in answers if answer.missing), "")
    return Answer(tuple(finding for answer in answers for finding in answer.findings), missing)


def _pip_audit(pins: Iterable[Pin]) -> Answer:
    """In a process of its own: pip-audit is a program. Hashes are the installers' business; nothing is installed."""
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.write("".join(f"{pin.name}=={pin.version}\n" for pin in pins))
        listed.flush()
        options = ["--requirement", listed.name, "--no-deps", "--disable-pip", "--format", "json"]
        pip_audit = str(Path(sys.executable).with_name("pip-audit"))
        done = _run([pip_audit, *options, "--progress-spinner", "off", "--timeout", "15"])
    try:
        listed_by_name = json.loads(done.stdout)["dependencies"]
    except (json.JSONDecodeError, KeyError):
        return Answer(missing=_last_line(done.stderr))
    return read_pip_audit(listed_by_name)


def read_pip_audit(listed: Iterable[dict[str, Any]]) -> Answer:
    """What the JSON of pip-audit means. Data are missing only where its index knows none of the packages."""
    findings, known, skipped = [], 0, ""
    for package in listed:
        if reason := package.get("skip_reason"):
            skipped = reason
            continue
        known += 1
        findings += [
            Finding(
                package["name"],
                package["version"],
                tuple(sorted({one["id"], *one.get("aliases", ())})),
                tuple(one.get("fix_versions", ())),
            )
            for one in package["vulns"]
        ]
    return Answer(tuple(findings), "" if known or not skipped else skipped)


def of_npm(lock: Path) -> Answer:
    """Known weaknesses of what an npm lock file pins."""
    if shutil.which("npm") is None:
        return Answer(missing="npm is not installed")
    done = _run(["npm", "audit", "--package-lock-only", "--json"], cwd=lock.parent)
    try:
        told = json.loads(done.stdout)
    except json.JSONDecodeError:
        return Answer(missing=_last_line(done.stderr))
    if "vulnerabilities" not in told:
        return Answer(missing=str(told.get("message") or told.get("error") or _last_line(done.stderr)))
    return read_npm_audit(told["vulnerabilities"], str(lock.parent.relative_to(ROOT)))


def read_npm_audit(listed: dict[str, dict[str, Any]], where: str) -> Answer:
    """What the JSON of npm audit means: a package is named with the advisories that are its own."""
    findings = []
    for name, package in listed.items():
        own = [via for via in package["via"] if isinstance(via, dict)]
        fix = package.get("fixAvailable")
        fixed = (str(fix["version"]),) if isinstance(fix, dict) else ()
        findings += [
            Finding(name, via.get("range", package.get("range", "?")), (_advisory(via),), fixed, where) for via in own
        ]
    return Answer(tuple(findings))


def _advisory(via: dict[str, Any]) -> str:
    return str(via.get("url", "")).rpartition("/")[2] or str(via.get("source", "?"))


def _run(command: Sequence[str], cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    try:
        return ended(command, timeout_s=_TIMEOUT_S, cwd=cwd)
    except ProgramError as error:
        return subprocess.CompletedProcess(command, 1, "", str(error))


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or ["it said nothing"])[-1]
