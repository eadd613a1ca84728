"""Programs of others: what they say is handed on, and every way to fail is one error that names them."""

import os
import re
from pathlib import Path

import pytest

from deploy.golang import go_build, go_trouble
from deploy.programs import ProgramError, ended, fetched, succeed


def program(folder: Path, script: str, name: str = "tool") -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_what_it_wrote_is_handed_on_and_it_gets_nothing_to_read(tmp_path: Path) -> None:
    tool = program(tmp_path, 'read line || echo "nothing, in $PWD"; echo "$FRUIT beside $HOME" >&2')
    said = succeed([tool], timeout_s=10, cwd=tmp_path, env={"FRUIT": "pear"})
    assert said == f"nothing, in {tmp_path}\npear beside {os.environ['HOME']}\n"


def test_an_exit_code_may_be_an_answer(tmp_path: Path) -> None:
    assert ended([program(tmp_path, "exit 3")], timeout_s=10).returncode == 3


@pytest.mark.parametrize(
    ("script", "timeout_s", "why"),
    [
        ("echo so far; echo no such thing >&2; exit 3", 10.0, "tool get ended with 3: so far\nno such thing"),
        ("exec sleep 60", 0.1, "tool get did not end within 0.1 s"),
    ],
)
def test_a_failure_names_it_and_what_it_said(tmp_path: Path, script: str, timeout_s: float, why: str) -> None:
    with pytest.raises(ProgramError) as raised:
        succeed([program(tmp_path, script), "get", "--from=there", "it"], timeout_s=timeout_s)
    assert str(raised.value) == why


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.programs._PAUSES_S", (0.0, 0.0))


@pytest.mark.usefixtures("without_pauses")
@pytest.mark.parametrize(("bad_moments", "comes"), [(2, True), (3, False)])
def test_what_a_registry_has_is_asked_for_three_times(tmp_path: Path, bad_moments: int, comes: bool) -> None:
    script = f"echo x >> tries; [ $(wc -l < tries) -gt {bad_moments} ] && echo here it is || {{ echo away; exit 1; }}"
    tool = program(tmp_path, script)
    if comes:
        assert fetched([tool], timeout_s=10, cwd=tmp_path) == "here it is\n"
    else:
        with pytest.raises(ProgramError, match=r"^tool ended with 1: away$"):
            fetched([tool], timeout_s=10, cwd=tmp_path)
    assert (tmp_path / "tries").read_text() == 3 * "x\n"


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"^tool cannot be executed: .*No such file"):
        succeed([str(tmp_path / "tool")], timeout_s=10)


@pytest.mark.parametrize(
    ("script", "why"),
    [
        ("echo go1.26.1", None),
        ("echo go1.25.9", r"^Go 1\.26 or newer, and .*/go is go1\.25\.9$"),
        ("exit 1", r"^Go 1\.26 or newer, and .*/go is unknown$"),
        ("exec sleep 60", r"^Go 1\.26 or newer, and go env GOVERSION did not end within 0\.1 s$"),
    ],
)
def test_go_is_asked_for_its_version_and_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, why: str | None
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("deploy.golang._ASK_TIMEOUT_S", 0.1 if "sleep" in script else 10)
    program(tmp_path, script, "go")
    trouble = go_trouble((1, 26))
    assert trouble is None if why is None else re.search(why, str(trouble))


@pytest.mark.usefixtures("without_pauses")
def test_a_program_that_could_not_be_built_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    program(tmp_path, 'while [ "$1" != -o ]; do shift; done; echo half > "$2"; echo no such package >&2; exit 1', "go")
    with pytest.raises(ProgramError, match=r"^go build ended with 1: no such package$"):
        go_build("./cmd", tmp_path, tmp_path / "made")
    assert not (tmp_path / "made").exists()
