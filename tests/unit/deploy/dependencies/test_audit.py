"""What the tools say of weaknesses becomes a verdict: found ones fail, accepted ones do until their day.

Missing data are told apart from nothing found.
"""

import json
import subprocess
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from deploy.dependencies import __main__ as command
from deploy.dependencies import advisories
from deploy.dependencies.advisories import KNOWN_UNSAFE, Answer, read_npm_audit, read_pip_audit
from deploy.dependencies.locks import LOCKS, all_pins, read_lock
from deploy.dependencies.sbom import IMAGES
from deploy.dependencies.verdict import Accepted, AuditError, Finding, judge, load_accepted

TODAY = date(2026, 11, 21)
WEAK = Finding("example", "1.0", ("CVE-2026-1", "GHSA-a"), ("1.1",))
VULNERABLE = {
    "name": "example",
    "version": "1.0",
    "vulns": [{"id": "PYSEC-1", "aliases": ["CVE-2026-1"], "fix_versions": ["1.1"]}],
}


def accepted(until: str, package: str = "example") -> Accepted:
    return Accepted(id="GHSA-a", package=package, reason="its parser is not used here", until=date.fromisoformat(until))


def test_a_weakness_is_a_fault() -> None:
    assert judge([WEAK, WEAK], [], TODAY).faults == ("example 1.0: CVE-2026-1, GHSA-a, fixed in 1.1",)


def test_one_that_is_accepted_is_a_note_until_its_day() -> None:
    verdict = judge([WEAK], [accepted("2026-11-21")], TODAY)
    assert verdict.faults == () and "accepted until 2026-11-21 (its parser" in verdict.notes[0]
    assert "until 2026-11-20 only" in judge([WEAK], [accepted("2026-11-20")], TODAY).faults[0]


def test_an_acceptance_is_of_one_package() -> None:
    assert judge([WEAK], [accepted("2027-01-01", "other")], TODAY).faults


@pytest.mark.parametrize("entry", ["- {id: a, package: b, until: 2027-01-01}", "- {id: a, reason: too short}", "{"])
def test_an_acceptance_without_a_reason_or_a_day_is_refused(tmp_path: Path, entry: str) -> None:
    (tmp_path / "accepted.yaml").write_text(entry)
    with pytest.raises(AuditError, match=r"accepted\.yaml"):
        load_accepted(tmp_path / "accepted.yaml")


def test_the_committed_list_can_be_read() -> None:
    load_accepted()


def test_what_pip_audit_says_is_read() -> None:
    answer = read_pip_audit([VULNERABLE, {"name": "fine", "version": "2", "vulns": []}])
    assert answer == Answer((Finding("example", "1.0", ("CVE-2026-1", "PYSEC-1"), ("1.1",)),))


def test_packages_that_its_index_does_not_know_are_no_clean_bill() -> None:
    unknown = {"name": "example", "skip_reason": "not found"}
    assert read_pip_audit([unknown]).missing == "not found"
    assert read_pip_audit([unknown, VULNERABLE]).missing == ""


def test_what_npm_says_is_read_and_consequences_are_not_counted_twice() -> None:
    own = {"url": "https://github.com/advisories/GHSA-b", "range": "<2"}
    told: dict[str, dict[str, Any]] = {
        "weak": {"via": [own], "fixAvailable": {"name": "weak", "version": "2.0.0"}},
        "user-of-weak": {"via": ["weak"], "fixAvailable": True},
    }
    assert read_npm_audit(told, "js").findings == (Finding("weak", "<2", ("GHSA-b",), ("2.0.0",), "js"),)


Say = Callable[[list[str]], dict[str, Any]]


@pytest.fixture
def tools(monkeypatch: pytest.MonkeyPatch) -> Callable[[Say], None]:
    """`pip-audit` answers what is said for the pins that it is asked for; npm has nothing to say."""

    def install(say: Say) -> None:
        def run(argv: list[str], cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
            if argv[0] == "npm":
                return subprocess.CompletedProcess(argv, 0, '{"vulnerabilities": {}}', "")
            asked = Path(argv[argv.index("--requirement") + 1]).read_text().split()
            return subprocess.CompletedProcess(argv, 0, json.dumps(say(asked)), "")

        monkeypatch.setattr(advisories, "_run", run)

    return install


CANARY = f"{KNOWN_UNSAFE.name}=={KNOWN_UNSAFE.version}"


def listed(asked: list[str], weak: str = "") -> dict[str, Any]:
    return {
        "dependencies": [
            {
                "name": pin.split("==")[0],
                "version": pin.split("==")[1],
                "vulns": VULNERABLE["vulns"] if pin in (CANARY, weak) else [],
            }
            for pin in asked
        ]
    }


def test_a_clean_audit_asks_for_every_pin(tools: Callable[[Say], None], capsys: pytest.CaptureFixture[str]) -> None:
    seen: set[str] = set()

    def say(asked: list[str]) -> dict[str, Any]:
        seen.update(asked)
        return listed(asked)

    tools(say)
    assert command.audit() == 0
    assert {"aiokafka", "aws-cdk-lambda-layer-kubectl-v36"} <= {name.partition("==")[0] for name in seen}
    assert seen == {f"{pin.name}=={pin.version}" for pin in all_pins()} | {CANARY}
    assert "not audited" not in capsys.readouterr().out


def test_a_weak_pin_fails(tools: Callable[[Say], None], capsys: pytest.CaptureFixture[str]) -> None:
    pin = next(pin for pin in all_pins() if pin.name == "aiokafka")
    tools(lambda asked: listed(asked, f"{pin.name}=={pin.version}"))
    assert command.audit() == 1
    assert f"error: aiokafka {pin.version}: CVE-2026-1, PYSEC-1" in capsys.readouterr().err


def test_who_knows_of_no_weakness_at_all_has_no_data(
    tools: Callable[[Say], None], capsys: pytest.CaptureFixture[str]
) -> None:
    def say(asked: list[str]) -> dict[str, Any]:
        assert asked == [CANARY], "nothing more is asked for"
        return {"dependencies": [{"name": KNOWN_UNSAFE.name, "version": KNOWN_UNSAFE.version, "vulns": []}]}

    tools(say)
    assert command.audit() == 0
    assert "not audited" in capsys.readouterr().out


def test_pins_know_on_which_platform_they_are_wanted() -> None:
    pins = {pin.name: pin for pin in read_lock(LOCKS / "gateway.lock")}
    assert not pins["uvloop"].wanted_on({"sys_platform": "win32"})
    assert pins["uvloop"].wanted_on({"sys_platform": "linux"})
    assert "--hash=sha256:" in pins["aiokafka"].text


def test_every_image_has_a_bill_of_all_its_locks() -> None:
    folder = LOCKS.parent / "deploy" / "images"
    files = {path.name.removesuffix(".Dockerfile"): path.read_text() for path in folder.glob("*.Dockerfile")}
    assert files.keys() == IMAGES.keys()
    for image, text in files.items():
        copied = {
            name.removeprefix("requirements/").removesuffix(".lock")
            for line in text.splitlines()
            if line.startswith("COPY requirements/")
            for name in line.split()
            if name.endswith(".lock")
        }
        alternatives = {f"{name}-cpu" for name in copied}  # the same pins, but for torch
        assert copied - alternatives - {"bootstrap"} == set(IMAGES[image]), image
